"""What an examination finds: what is as it should be, what is not, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Lives as long as its reader; holds no secret.

    Args:
        subject: a word: "schema".
        level: an error keeps the service from working as it should; a warning may do so one day.
        message: what was found.
        fix: what to do, where it is not ok.
    """

    subject: str
    level: Level
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Plan:
    """How the database is going to be used. Lives as long as an examination.

    Args:
        processes: how many processes will use it at once.
        production: strangers may be near, and data is to last.
        request_timeout_s: the longest a request may take.
    """

    processes: int
    production: bool
    request_timeout_s: float


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(subject, "ok", message)


def warning(subject: str, message: str, fix: str) -> Finding:
    """It works today."""
    return Finding(subject, "warning", message, fix)


def error(subject: str, message: str, fix: str) -> Finding:
    """It does not work, or must not be relied on."""
    return Finding(subject, "error", message, fix)
