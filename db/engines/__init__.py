"""Engines and their pools."""
