"""JSON in, problems out."""
