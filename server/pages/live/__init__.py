"""``/-/live``: what every request is doing now."""
