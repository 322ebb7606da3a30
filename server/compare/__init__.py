"""Explicit, contextvar, registry, thread-local: a comparison that is run, not told."""

from __future__ import annotations

DEFAULT_OUT = "onfinish-compare.html"
"""The newest report, in the folder in which the command was run."""
