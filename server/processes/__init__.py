"""Processes: how they start, stop and are replaced."""
