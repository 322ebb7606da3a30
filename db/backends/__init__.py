"""Each database's own ways."""
