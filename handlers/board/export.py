"""The export: every task as a line of JSON, while it is read."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import to_json
from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from db.board import tasks
from db.board.tasks import TaskFilter
from db.capacity.limiter import AdmissionLimiter
from db.errors import PoolTimeout
from handlers.board import examples
from handlers.board.queries import TaskChoice
from handlers.board.responses import listed_json
from handlers.board.tasks import TASKS
from handlers.json_api.api import ApiHandler
from handlers.json_api.query import read_query
from handlers.openapi.operation import Answer, operation

PAGE_SIZE = 250
"""Rows of one fetch. The largest have 24 MiB together as they are stored; a thousand took no less CPU."""

WRITTEN_AT_ONCE_BYTES = 128 * 1024
"""Three of the largest tasks, four hundred small ones. In greenlets the event loop parses and
writes their JSON in one turn; fewer would cost more calls."""


class ExportHandler(ApiHandler):
    """``/tasks/export``. Lives as long as its client goes on reading.

    One snapshot, a server-side cursor, and a page at a time: the next is read when the socket has taken
    the last, so that a slow client costs time and no memory. Each holds one of the reader's slots; the
    application's setting ``exports``, an `AdmissionLimiter`, leaves the others to other requests.
    """

    streams = True
    # An open snapshot keeps the database from removing old versions of rows.
    timeout_s = 3_600.0

    async def head(self, *args: str, **kwargs: str) -> None:
        """The headers alone; nothing is read for them."""
        read_query(self, TaskChoice)
        self.set_header("Content-Type", "application/x-ndjson")
        await self.flush()  # before the end, which would give GET's body a length of 0

    @operation(
        name="export_tasks",
        tag=TASKS,
        summary="Every task as a line of JSON, in the order of the ids, from one snapshot",
        description=lambda limits: (
            "Streamed. A failure midway breaks the connection: what ends as it should is complete. At most "
            f"{limits.http.exports_max} may run at once in a process (`http.exports_max`), the next is 503."
        ),
        query=TaskChoice,
        answers=(
            Answer(
                200, "Lines of JSON, a `Task` each.", str, examples.LINES, media_type="application/x-ndjson"
            ),
        ),
        errors=(lambda limits: _too_many(limits.http.exports_max),),
    )
    async def get(self) -> None:
        where = read_query(self, TaskChoice).where()
        limiter: AdmissionLimiter = self.settings["exports"]
        slot = limiter.acquire_nowait()
        if slot is None:
            raise _too_many(limiter.size)
        with slot:
            pages = _lines(self.session, where)
            page = await self.run(next, pages, None)
            self.set_header("Content-Type", "application/x-ndjson")
            while page is not None:
                self.write(page)
                await self.flush()
                page = await self.run(next, pages, None)


def _lines(session: Session, where: TaskFilter) -> Iterator[bytes]:
    """The export's body, as many lines at a time as are written at once."""
    lines: list[bytes] = []
    size = 0
    for page in tasks.stream_tasks(session, where=where, page_size=PAGE_SIZE):
        for row in page:
            line = to_json(listed_json(row), inf_nan_mode="null") + b"\n"
            lines.append(line)
            size += len(line)
            if size > WRITTEN_AT_ONCE_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
    if lines:
        yield b"".join(lines)


def _too_many(running: int) -> PoolTimeout:
    return PoolTimeout(f"{running} exports are running, which is as many as may", retry_after_s=10)


ROUTES = (URLSpec("/tasks/export", ExportHandler, name="export"),)
