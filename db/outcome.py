"""What has become of a unit of work."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """The decision about the work, and whether the database has confirmed it."""

    OPEN = "open"
    COMMITTED = "kept"
    ROLLED_BACK = "undone"
    READ = "read"
    """As committed, of a unit that is read-only: it had nothing to commit."""
    UNKNOWN = "unknown"
