"""Which errors are retried, how often, and after what pause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from db.errors import ConnectionLost, RetryableConflict
from db.retry import RetryPolicy

CONFLICTS = (RetryableConflict, ConnectionLost)
"""The database's own retryable errors: nothing was applied, and the same work may succeed."""


def policy_of(
    policy: RetryPolicy, settings: Mapping[str, Any], own: tuple[type[Exception], ...]
) -> RetryPolicy:
    """The policy of a database, with the errors that an application and one of its handlers add.

    Args:
        settings: the application's; ``retry_on`` has its errors.
        own: the handler's.
    """
    added = (*settings.get("retry_on", ()), *own)
    return replace(policy, errors=(*policy.errors, *added)) if added else policy
