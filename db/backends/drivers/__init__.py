"""How PostgreSQL's drivers are spoken to."""
