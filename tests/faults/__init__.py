"""Faults made for real, and what is left after them."""
