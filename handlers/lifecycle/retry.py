"""When work is done again that the database refused as a conflict."""

from __future__ import annotations

import random

from db.errors import ConnectionLost, RetryableConflict

CONFLICTS = (RetryableConflict, ConnectionLost)
"""After these nothing was applied, and the same work may well succeed."""

_BACKOFF_S = 0.01


def backoff_s(attempt: int) -> float:
    """How long to wait after an attempt: two that met in a deadlock should not set out together again."""
    return random.uniform(0, _BACKOFF_S * 2**attempt)
