"""The requests of all processes that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from server.monitoring.peers import Peers
from server.pages.requests.kept import LAST_MAX
from server.pages.requests.log import RequestLog

LIST = b"r"
ONE = b"R"
"""What processes ask each other: for their lists, and for requests, by the beginning of an id behind it."""

FOUND_MAX = 10
"""So many requests are shown of those that a beginning of an id has found."""

T = TypeVar("T")


class Found(NamedTuple):
    """The requests that have an id, else those whose id begins so, the newest first.

    ``more``: whether there are others than these.
    """

    requests: list[dict[str, Any]]
    more: bool
    stuck: list[int]


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

    async def find(self, request_id: str) -> Found:
        """The requests of all processes that have an id, or that it is the beginning of."""
        answers = await self._peers.ask(ONE + request_id.encode())
        found = _exact(_newest(answers, "found"), request_id, lambda each: each["request_id"])
        more = len(found) > FOUND_MAX
        return Found(found[:FOUND_MAX], more, _stuck(answers))

    def _list(self) -> dict[str, Any]:
        kept = self.log.kept
        return {
            "process": self.log.process,
            "recording": self.log.is_recording,
            "last": [each.summary() for each in list(kept.last)],
            "worst": [each.summary() for each in kept.worst],
        }

    def _find(self, request_id: str) -> dict[str, Any]:
        kept = [*self.log.open_requests(request_id), *self.log.kept.find(request_id)]
        found = _exact(kept, request_id, lambda each: each.request_id)
        # One more than is shown: so it is known that there are others.
        return {"process": self.log.process, "found": [each.as_json() for each in found[: FOUND_MAX + 1]]}


def _exact(found: list[T], request_id: str, id_of: Callable[[T], str]) -> list[T]:
    """Those that have the id where any has it, else all: it is the beginning of theirs."""
    return [each for each in found if id_of(each) == request_id] or found


def _newest(answers: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found = [each for answer in answers for each in answer.get(name, ())]
    return sorted(found, key=lambda each: each["at_s"], reverse=True)


def _stuck(answers: Iterable[dict[str, Any]]) -> list[int]:
    return [answer["process"] for answer in answers if "error" in answer]
