"""What `check` asks of a database."""
