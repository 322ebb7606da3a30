"""Clients that read each of their writes back with its token, from a reader that may lag or have lost it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any, NamedTuple

from tornado.httpclient import HTTPClientError

from tests.faults.ledger import State
from tests.faults.load import Load
from tests.fixtures.server import Answer

AGAIN_AFTER_S = 0.05
READ_TIMEOUT_S = 30.0


class Write(NamedTuple):
    """One that was acknowledged."""

    row_id: str
    token: str


class ReadAfterLoad(Load):
    """Lives as any `Load`; what it holds is for after its block.

    A row has one writer, which reads the row back before it goes on: what its ledger permits then is what
    that read may answer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.writes: list[Write] = []
        self.told_lost: set[Write] = set()
        self.stale: list[str] = []
        self.reads: Counter[str] = Counter()

    async def read_all_back(self) -> None:
        """Once more, after the load: the writes before a failover with what the new leader has."""
        for write in self.writes:
            async with asyncio.timeout(READ_TIMEOUT_S):
                while not await self._read_back(write):
                    pass

    async def _acknowledged(self, row_id: str, answer: Answer) -> None:
        without = await self._ask_for(row_id)
        if without is not None:
            self.reads["without a token"] += 1
            self.reads["stale without a token"] += not self._may_be(row_id, without)
        if "Wrote" not in answer.headers:  # MariaDB has no tokens
            return
        write = Write(row_id, answer.headers["Wrote"])
        self.writes.append(write)
        while not self._enough and not await self._read_back(write):
            pass

    async def _read_back(self, write: Write) -> bool:
        """Whether that was answered; where it was not, a moment is waited."""
        answer = await self._ask_for(write.row_id, {"Read-After": write.token})
        if answer is None:
            await asyncio.sleep(AGAIN_AFTER_S)
            return False
        self.reads["with a token"] += 1
        if answer.headers.get("Write-Lost") == "1":
            self.told_lost.add(write)
        elif not self._may_be(write.row_id, answer):
            self.stale.append(f"{write} is {answer!r}, not {self._ledger.possible[write.row_id]}")
        return True

    async def _ask_for(self, row_id: str, headers: dict[str, str] | None = None) -> Answer | None:
        """An answer that says what the row is; None where there is none."""
        with contextlib.suppress(OSError, HTTPClientError):
            answer = await self._client.get(f"{self._ledger.resource.path}/{row_id}", headers=headers or {})
            if answer.code in (200, 404):
                return answer
            self.reads[str(answer.code)] += 1
        return None

    def _may_be(self, row_id: str, answer: Answer) -> bool:
        state: State = answer.json()[self._ledger.resource.number] if answer.code == 200 else None
        return state in self._ledger.possible[row_id]
