"""The requests of all processes that are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from server.monitoring.peers import Peers
from server.pages.requests.kept import LAST_MAX
from server.pages.requests.log import RequestLog

LIST = b"r"
ONE = b"R"
"""What processes ask each other: for their lists, and (with an id behind it) for one request."""


@dataclass
class Lists:
    """What is kept, the newest first. Lives as long as one answer."""

    last: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    is_recording: bool
    stuck: list[int]

    def as_json(self) -> dict[str, Any]:
        """The same, for a program."""
        return {
            "recording": self.is_recording,
            "last": self.last,
            "worst": self.worst,
            "stuck_processes": self.stuck,
        }


class RequestViews:
    """Asks the processes. Lives as long as the process.

    Args:
        log: what this one keeps.
        peers: the others.
    """

    def __init__(self, log: RequestLog, peers: Peers) -> None:
        self.log = log
        self._peers = peers

    def start(self) -> None:
        """Answer the other processes."""
        self._peers.answer(LIST, self._list)
        self._peers.answer(ONE, self._find)

    async def lists(self) -> Lists:
        """The last and the worst requests of all processes."""
        answers = await self._peers.ask(LIST)
        return Lists(
            last=_newest(answers, "last")[:LAST_MAX],
            worst=_newest(answers, "worst"),
            is_recording=any(each.get("recording") for each in answers),
            stuck=_stuck(answers),
        )

    async def find(self, request_id: str) -> tuple[list[dict[str, Any]], list[int]]:
        """The requests that have an id, the newest first, and the processes that do not answer."""
        answers = await self._peers.ask(ONE + request_id.encode())
        return _newest(answers, "found"), _stuck(answers)

    def _list(self) -> dict[str, Any]:
        kept = self.log.kept
        return {
            "process": self.log.process,
            "recording": self.log.is_recording,
            "last": [each.summary() for each in list(kept.last)],
            "worst": [each.summary() for each in kept.worst],
        }

    def _find(self, request_id: str) -> dict[str, Any]:
        found = [*self.log.open_requests(request_id), *self.log.kept.find(request_id)]
        return {"process": self.log.process, "found": [each.as_json() for each in found]}


def clock(at_s: float) -> str:
    """A time of the day, with milliseconds."""
    return time.strftime("%H:%M:%S", time.localtime(at_s)) + f".{int(at_s * 1000) % 1000:03d}"


def _newest(answers: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found = [each for answer in answers for each in answer.get(name, ())]
    return sorted(found, key=lambda each: each["at_s"], reverse=True)


def _stuck(answers: Iterable[dict[str, Any]]) -> list[int]:
    return [answer["process"] for answer in answers if "error" in answer]
