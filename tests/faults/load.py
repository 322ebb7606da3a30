"""Clients that create, change and delete tasks of their own until they are told to stop."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Self

from tests.faults.ledger import TASK, Ledger
from tests.fixtures.server import Client


class Load:
    """Some writers and a reader. Lives as long as its ``async with`` block; that waits for the last answers.

    Args:
        client: where they ask.
        ledger: where they note what they were told.
        writers: how many at once.
        pause_s: between two requests of one of them.
        seed: the same one makes the same requests.
    """

    def __init__(
        self, client: Client, ledger: Ledger, *, writers: int = 3, pause_s: float = 0.005, seed: int = 0
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._writers = writers
        self._pause_s = pause_s
        self._random = random.Random(seed)
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
        what = self._random.random() if own else 0.0
        if what < 0.5:
            task_id = ledger.new_id()
            body = {**TASK, "id": task_id, "change_id": number}
            answer = ledger.heard(task_id, number, await self._client.post("/tasks", body))
            if answer.code == 201:
                own.append(task_id)
            return
        task_id = self._random.choice(own)
        if None in ledger.possible[task_id]:  # whether it is there is not known: nothing follows from a 404
            own.remove(task_id)
        elif what < 0.85:
            answer = await self._client.patch(f"/tasks/{task_id}", {"change_id": number})
            ledger.heard(task_id, number, answer)
        else:
            ledger.heard(task_id, None, await self._client.delete(f"/tasks/{task_id}"))

    async def _read(self) -> None:
        while not self._enough:
            answer = await self._client.get("/tasks?limit=5")
            if answer.code not in (200, 503, 504):
                self._ledger.faults.append(f"unexpected: {answer!r}")
            self._ledger.answers[f"GET {answer.code}"] += 1
            await asyncio.sleep(self._pause_s * 3)
