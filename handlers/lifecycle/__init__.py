"""How a request ends."""
