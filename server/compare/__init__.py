"""Explicit, contextvar, registry, thread-local: a comparison that is run, not told."""
