"""Tornado with psycopg2 in threads and no ORM, written by hand: a request is a function in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg2
from psycopg2.extras import NamedTupleCursor, execute_values
from psycopg2.pool import ThreadedConnectionPool
from tornado.web import Application, HTTPError

from tests.bench.peers.contract import (
    FILTERS,
    PAGE_SIZE,
    POOL_SIZE,
    StatusForbidden,
    TaskChange,
    TaskNew,
    TaskQuery,
    TasksNew,
    changes,
    cursor_of,
    database_url,
    json_text,
    position_of,
    task_json,
)
from tests.bench.peers.tornado_json import JsonHandler, serve

COLUMNS = (
    "id",
    "task_status",
    "s3_keys",
    "bundle",
    "granularity",
    "target_date",
    "change_id",
    "team_id",
    "version",
    "create_time",
    "update_time",
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM tasks"
ONE = f"{SELECT} WHERE id = %s"
INSERT = f"INSERT INTO tasks ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"

R = TypeVar("R")


class Handler(JsonHandler):
    """Lives as long as its request."""

    async def run(self, function: Callable[[Any], R]) -> R:
        """Call a function with a cursor, as one transaction, in a thread."""
        threads, pool = self.settings["threads"], self.settings["pool"]

        def work() -> R:
            connection = pool.getconn()
            try:
                with connection, connection.cursor() as cursor:  # which commits, or rolls back
                    return function(cursor)
            finally:
                pool.putconn(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except psycopg2.IntegrityError:
            raise HTTPError(409) from None


class TasksHandler(Handler):
    async def get(self) -> None:
        query = self.query(TaskQuery)
        where, values = conditions(query)
        if query.cursor is not None:
            where.append("(create_time, id) < (%s, %s)")
            values += position_of(query.cursor)
        values.append(query.limit + 1)

        def read(cursor: Any) -> list[Any]:
            cursor.execute(f"{SELECT}{_where(where)} ORDER BY create_time DESC, id DESC LIMIT %s", values)
            return cursor.fetchall()

        rows = await self.run(read)
        page = rows[: query.limit]
        next_cursor = cursor_of(page[-1]) if len(rows) > len(page) else None
        self.answer({"items": [task_json(row) for row in page], "next_cursor": next_cursor})

    async def post(self) -> None:
        new = self.body(TaskNew)

        def create(cursor: Any) -> dict[str, Any]:
            require_teams(cursor, {new.team_id})
            row = _row(new)
            cursor.execute(INSERT, _values(row))
            return row

        self.answer(task_json(Row(await self.run(create))), 201)


class TaskHandler(Handler):
    async def get(self, task_id: str) -> None:
        def read(cursor: Any) -> Any:
            cursor.execute(ONE, (task_id,))
            return cursor.fetchone()

        row = await self.run(read)
        if row is None:
            raise HTTPError(404)
        self.answer(task_json(row))

    async def patch(self, task_id: str) -> None:
        change = self.body(TaskChange)

        def update(cursor: Any) -> dict[str, Any]:
            cursor.execute(f"{ONE} FOR UPDATE", (task_id,))
            row = cursor.fetchone()
            if row is None:
                raise HTTPError(404)
            try:
                changed = changes(change, lambda name: getattr(row, name))
            except StatusForbidden as error:
                raise HTTPError(409, str(error)) from None
            if changed:
                sets = ", ".join(f"{name} = %s" for name in changed)
                cursor.execute(f"UPDATE tasks SET {sets} WHERE id = %s", [*_values(changed), task_id])
            return {**row._asdict(), **changed}

        self.answer(task_json(Row(await self.run(update))))


class BulkHandler(Handler):
    async def post(self) -> None:
        new = self.body(TasksNew)

        def create(cursor: Any) -> None:
            require_teams(cursor, {task.team_id for task in new.items})
            rows = [_values(_row(task)) for task in new.items]
            insert = f"INSERT INTO tasks ({', '.join(COLUMNS)}) VALUES %s"
            execute_values(cursor, insert, rows, page_size=1000)

        await self.run(create)
        self.answer({"created": len(new.items), "ids": [task.id for task in new.items]}, 201)


class ExportHandler(Handler):
    async def get(self) -> None:
        where, values = conditions(self.query(TaskQuery))
        self.set_header("Content-Type", "application/x-ndjson")
        loop, threads, pool = asyncio.get_running_loop(), self.settings["threads"], self.settings["pool"]
        connection = await loop.run_in_executor(threads, pool.getconn)
        try:
            pages = read(connection, f"{SELECT}{_where(where)} ORDER BY id", values)
            while (page := await loop.run_in_executor(threads, next, pages, None)) is not None:
                self.write("".join(f"{json_text(task_json(row))}\n" for row in page))
                await self.flush()
        finally:
            pool.putconn(connection)


class Row(dict[str, Any]):
    """A row that was not read. Lives as long as its request."""

    __getattr__ = dict.__getitem__


def read(connection: Any, statement: str, values: Sequence[Any]) -> Iterator[list[Any]]:
    with connection, connection.cursor("export") as cursor:
        cursor.itersize = PAGE_SIZE
        cursor.execute(statement, values)
        while page := cursor.fetchmany(PAGE_SIZE):
            yield page


def _row(new: TaskNew) -> dict[str, Any]:
    values = dict(new)
    values["version"] = 1
    values["create_time"] = values["update_time"] = datetime.now(UTC)
    return {name: values[name] for name in COLUMNS}


def _values(row: dict[str, Any]) -> list[Any]:
    return [json.dumps(value) if isinstance(value, dict) else value for value in row.values()]


def conditions(query: TaskQuery) -> tuple[list[str], list[Any]]:
    given = [name for name in FILTERS if getattr(query, name) is not None]
    where = [f"{FILTERS[name][0]} {FILTERS[name][1]} %s" for name in given]
    return where, [getattr(query, name) for name in given]


def _where(where: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(where)}" if where else ""


def require_teams(cursor: Any, team_ids: set[int | None]) -> None:
    wanted = [team_id for team_id in team_ids if team_id is not None]
    if wanted:
        cursor.execute("SELECT count(*) FROM teams WHERE id = ANY(%s)", (wanted,))
        if cursor.fetchone()[0] != len(wanted):
            raise HTTPError(422, "there is no such team")


async def make() -> Application:
    pool = ThreadedConnectionPool(POOL_SIZE, POOL_SIZE, database_url(), cursor_factory=NamedTupleCursor)
    return Application(
        [
            ("/tasks", TasksHandler),
            ("/tasks/bulk", BulkHandler),
            ("/tasks/export", ExportHandler),
            ("/tasks/([0-9a-f]{32})", TaskHandler),
        ],
        pool=pool,
        # As many as connections, so that no thread waits for one.
        threads=ThreadPoolExecutor(POOL_SIZE),
    )


if __name__ == "__main__":
    serve(make)
