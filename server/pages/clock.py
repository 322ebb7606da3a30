"""Times of the day as pages show them: of the server's own zone, as on its terminal, with the zone said."""

from __future__ import annotations

import time


def clock(at_s: float, *, digits: int = 0) -> str:
    """A time of the day: ``14:02:09``, with digits of the second ``14:02:09.123``."""
    shown = time.strftime("%H:%M:%S", time.localtime(at_s))
    return f"{shown}.{int(at_s % 1 * 10**digits):0{digits}d}" if digits else shown


def zone(at_s: float | None = None) -> str:
    """The zone at a time, by default now: ``UTC``, ``UTC+02:00``."""
    offset = time.strftime("%z", time.localtime(at_s))
    return "UTC" if offset == "+0000" else f"UTC{offset[:3]}:{offset[3:]}"


def day(at_s: float, now_s: float) -> str:
    """The day of a time, with a blank behind it: ``2026-11-27 ``; empty where it is today."""
    then, now = time.localtime(at_s), time.localtime(now_s)
    return "" if then[:3] == now[:3] else time.strftime("%Y-%m-%d ", then)
