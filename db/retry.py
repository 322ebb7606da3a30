"""Which errors are retried, how often, and after what pause."""

from __future__ import annotations

import random
from dataclasses import dataclass

from db.errors import CERTIFICATION, ConnectionLost, OutcomeUnknown, RetryableConflict, TransactionEnded

_MAY_BE_APPLIED = (OutcomeUnknown, TransactionEnded)
"""Never retried, whatever a policy names: the work, or a part of it, would be done twice."""


@dataclass(frozen=True)
class RetryPolicy:
    """When the work of a unit is done once more, from the start and in a new session.

    Immutable. `Database.retry_policy` is the one of a process, for requests, messages and
    `Database.run_in_transaction`; an application sets another in its place, for example one with an error of
    its own: ``RetryPolicy(errors=(*RetryPolicy.errors, Crowded))``.

    Args:
        attempts_max: attempts in all, at least 1, which is none after the first.
        certification_attempts_max: as many where a Galera node may have refused the transaction by
            certification, if that is more: no lock decides who wins there, and one may lose several times.
        errors: the retryable errors: nothing was applied, and the same work may succeed.
        backoff_s: the pause after attempt n is random, from 0 to ``backoff_s * 2**n`` seconds; from the fifth
            on it grows no more.

    Raises:
        ValueError: ``attempts_max`` is below 1.
    """

    attempts_max: int = 3
    errors: tuple[type[BaseException], ...] = (RetryableConflict, ConnectionLost)
    backoff_s: float = 0.01
    certification_attempts_max: int = 12

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise ValueError(
                f"attempts_max counts attempts in all, and should be 1 or more: {self.attempts_max}"
            )

    def retries(self, error: BaseException | None) -> bool:
        """Whether work that raised this may be retried. False where it may have been applied."""
        return isinstance(error, self.errors) and not isinstance(error, _MAY_BE_APPLIED)

    def attempts_for(self, error: BaseException | None) -> int:
        """How many attempts in all there are at work that raised this."""
        if self.attempts_max > 1 and isinstance(error, RetryableConflict) and error.reason == CERTIFICATION:
            return max(self.attempts_max, self.certification_attempts_max)
        return self.attempts_max

    def pause_s(self, attempt: int) -> float:
        """How long to wait after an attempt: random, so that two that met in a deadlock do not meet again."""
        return random.uniform(0, self.backoff_s * 2 ** min(attempt, 5))


def reason_of(error: BaseException) -> str:
    """How logs and metrics name an error that is retried: "deadlock", say, or the name of its class."""
    return error.reason if isinstance(error, RetryableConflict | ConnectionLost) else type(error).__name__
