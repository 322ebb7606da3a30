"""Explicit, contextvar, registry, thread-local: each is run, and compared by what it did."""

from __future__ import annotations

DEFAULT_OUT = "onfinish-compare.html"
"""The newest report, in the folder in which the command was run."""
