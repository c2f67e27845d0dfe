"""The addresses of the service, by who asks them."""
