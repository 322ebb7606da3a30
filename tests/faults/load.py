"""Clients that create, change and delete rows of their own until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Any, Self

from tornado.httpclient import HTTPClientError

from tests.faults.ledger import GONE, Ledger, State
from tests.fixtures.server import Answer, Client


class Load:
    """Some writers and a reader. Lives as long as its ``async with`` block; that waits for the last answers.

    Args:
        client: where they ask.
        ledger: where they note what they were told.
        writers: how many at once.
        pause_s: between two requests of one of them.
        seed: the same one makes the same requests.
        keyed: each creation has an Idempotency-Key, and is sent again until its outcome is known.
        creates_only: no row is changed or deleted.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        *,
        writers: int = 3,
        pause_s: float = 0.005,
        seed: int = 0,
        keyed: bool = False,
        creates_only: bool = False,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._writers = writers
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._keyed = keyed
        self._creates_only = creates_only
        self._enough = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._write()) for _ in range(self._writers)]
        self._tasks.append(asyncio.ensure_future(self._read()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._enough = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    async def _write(self) -> None:
        own: list[str] = []
        while not self._enough:
            await self._one(own)
            await asyncio.sleep(self._pause_s)

    async def _one(self, own: list[str]) -> None:
        ledger, number = self._ledger, self._random.randrange(1_000_000)
        path = ledger.resource.path
        what = self._random.random() if own and not self._creates_only else 0.0
        if what < 0.5:
            row_id = ledger.new_id()
            if await self._create(row_id, number) < 400:
                own.append(row_id)
            return
        row_id = self._random.choice(own)
        if None in ledger.possible[row_id]:  # whether it is there is not known: nothing follows from a 404
            own.remove(row_id)
        elif what < 0.85:
            await self._ask(row_id, number, "PATCH", f"{path}/{row_id}", {ledger.resource.number: number})
        else:
            await self._ask(row_id, None, "DELETE", f"{path}/{row_id}")

    async def _create(self, row_id: str, number: int) -> int:
        resource = self._ledger.resource
        body = resource.new(row_id, number)
        headers = {"Idempotency-Key": row_id} if self._keyed else {}
        while True:
            code = await self._ask(row_id, number, "POST", resource.path, body, headers=headers)
            is_open = len(self._ledger.possible[row_id]) > 1
            if not (is_open and self._keyed) or self._enough:
                return code

    async def _ask(self, row_id: str, wanted: State, *request: Any, **options: Any) -> int:
        """Send a request and note its answer; returns the status, or `GONE`."""
        try:
            answer = await self._client.request(*request, **options)
        except ConnectionRefusedError:
            self._ledger.answers["no connection"] += 1
            await asyncio.sleep(0.05)
            return GONE
        except (OSError, HTTPClientError):  # broken off: its outcome is unknown
            self._ledger.answers["broken off"] += 1
            self._ledger.note(row_id, wanted, GONE, None)
            return GONE
        self._ledger.heard(row_id, wanted, answer)
        if answer.code < 400:
            await self._acknowledged(row_id, answer)
        return answer.code

    async def _acknowledged(self, row_id: str, answer: Answer) -> None:
        """Of a write that was: what a load does before its writer goes on."""

    async def _read(self) -> None:
        while not self._enough:
            with contextlib.suppress(OSError, HTTPClientError):
                answer = await self._client.get(f"{self._ledger.resource.path}?limit=5")
                if answer.code not in (200, 503, 504):
                    self._ledger.faults.append(f"unexpected: {answer!r}")
                self._ledger.answers[f"GET {answer.code}"] += 1
            await asyncio.sleep(self._pause_s * 3)
