"""What an examination finds: what is as it should be, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_CLOCKS_APART_S = 5

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


def clock(now: datetime) -> Iterator[Finding]:
    """A finding where the server's time, which is ``now`` for it, is not this machine's."""
    apart_s = abs((datetime.now(UTC) - now).total_seconds())
    if apart_s > _CLOCKS_APART_S:
        fix = "let both keep their time by NTP"
        yield warning("clock", f"the server's clock and this machine's are {apart_s:.0f} s apart", fix)


def version(name: str, found: str, oldest: str, *, is_too_old: bool) -> Finding:
    """The version of a database server, as an error where it is older than what is supported."""
    if is_too_old:
        fix = f"upgrade the server: {oldest} is the oldest that is supported here"
        return error("server", f"{name} {found}", fix)
    return ok("server", f"{name} {found}")
