"""The service: answers queries over HTTP, and shows a page to ask it."""
