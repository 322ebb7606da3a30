"""Books, members and loans."""
