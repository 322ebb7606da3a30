"""Which errors are retried, and when."""

from __future__ import annotations

import random

from db.errors import ConnectionLost, RetryableConflict

CONFLICTS = (RetryableConflict, ConnectionLost)
"""The retryable errors: nothing was applied, and the same work may succeed."""

_BACKOFF_S = 0.01


def backoff_s(attempt: int) -> float:
    """How long to wait after an attempt: random, so that two that met in a deadlock do not meet again."""
    return random.uniform(0, _BACKOFF_S * 2**attempt)
