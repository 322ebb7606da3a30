"""``/-/requests``: what became of the last and the worst requests, and the SQL timeline of each."""
