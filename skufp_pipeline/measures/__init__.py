"""What a result is worth: ranks, metrics and their intervals."""
