"""What each database does its own way, a module each."""
