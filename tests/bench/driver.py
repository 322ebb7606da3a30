"""A client that costs little beside the server it drives: kept-alive connections, and bytes made by hand."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections import Counter
from types import TracebackType
from typing import Any, Self


class Connection:
    """One connection that is kept alive. Lives as long as its ``async with`` block.

    Notes of each request how long it took and with which status it was answered.
    """

    def __init__(self, port: int, latencies_s: array[float], statuses: Counter[int]) -> None:
        self._port = port
        self._latencies_s = latencies_s
        self._statuses = statuses

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    async def request(self, method: str, path: str, body: Any = None, key: str | None = None) -> bytes:
        """Send a request and read its answer's body."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        began = time.perf_counter()
        self._writer.write(head.encode() + b"\r\n" + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        length = _content_length(answer)
        content = await self._reader.readexactly(length) if length else b""
        self._latencies_s.append(time.perf_counter() - began)
        self._statuses[status] += 1
        return content


def _content_length(head: bytes) -> int:
    at = head.find(b"\r\nContent-Length: ")
    return 0 if at < 0 else int(head[at + 18 : head.index(b"\r\n", at + 18)])


def percentile_ms(latencies_s: array[float], share: float) -> float:
    """The latency that this share of the requests stayed below, in milliseconds."""
    ordered = sorted(latencies_s)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3) if ordered else 0.0
