"""Revisions, oldest first by name: ``<number>_<what it does>.py``."""
