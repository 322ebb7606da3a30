"""SQL that is spelt for every database."""
