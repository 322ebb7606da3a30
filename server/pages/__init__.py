"""The pages that a browser shows: home, the API to read and to try, what is going on, and errors."""

from __future__ import annotations

from server.pages.own import pages_for

__all__ = ["pages_for"]
