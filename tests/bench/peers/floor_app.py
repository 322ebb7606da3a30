"""Tornado with asyncpg and no ORM, written by hand: the floor under everything that is built on Tornado.

A statement by itself needs no BEGIN and COMMIT around it, and has none here. Nor is a connection reset when
it comes back, which asyncpg's pool does by a round trip of its own: nothing here changes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
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
ONE = f"{SELECT} WHERE id = $1"
PLACES = ", ".join(f"${at + 1}" for at in range(len(COLUMNS)))
INSERT = f"INSERT INTO tasks ({', '.join(COLUMNS)}) VALUES ({PLACES})"


class Handler(JsonHandler):
    """Lives as long as its request."""

    @property
    def pool(self) -> asyncpg.Pool:
        return self.settings["pool"]


class TasksHandler(Handler):
    async def get(self) -> None:
        query = self.query(TaskQuery)
        where, values = conditions(query)
        if query.cursor is not None:
            where.append(f"(create_time, id) < (${len(values) + 1}, ${len(values) + 2})")
            values += position_of(query.cursor)
        values.append(query.limit + 1)
        rows = await self.pool.fetch(
            f"{SELECT}{_where(where)} ORDER BY create_time DESC, id DESC LIMIT ${len(values)}", *values
        )
        page = rows[: query.limit]
        next_cursor = cursor_of(page[-1]) if len(rows) > len(page) else None
        self.answer({"items": [task_json(row) for row in page], "next_cursor": next_cursor})

    async def post(self) -> None:
        new = self.body(TaskNew)
        await require_teams(self.pool, {new.team_id})
        row = _row(new)
        try:
            await self.pool.execute(INSERT, *row.values())
        except asyncpg.IntegrityConstraintViolationError:
            raise HTTPError(409) from None
        self.answer(task_json(Row(row)), 201)


class TaskHandler(Handler):
    async def get(self, task_id: str) -> None:
        row = await self.pool.fetchrow(ONE, task_id)
        if row is None:
            raise HTTPError(404)
        self.answer(task_json(row))

    async def patch(self, task_id: str) -> None:
        change = self.body(TaskChange)
        async with self.pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(f"{ONE} FOR UPDATE", task_id)
            if row is None:
                raise HTTPError(404)
            try:
                changed = changes(change, row.__getitem__)
            except StatusForbidden as error:
                raise HTTPError(409, str(error)) from None
            if changed:
                sets = ", ".join(f"{name} = ${at + 2}" for at, name in enumerate(changed))
                await connection.execute(f"UPDATE tasks SET {sets} WHERE id = $1", task_id, *changed.values())
        self.answer(task_json(Row({**row, **changed})))


class BulkHandler(Handler):
    async def post(self) -> None:
        new = self.body(TasksNew)
        await require_teams(self.pool, {task.team_id for task in new.items})
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.executemany(INSERT, [tuple(_row(task).values()) for task in new.items])
        except asyncpg.IntegrityConstraintViolationError:
            raise HTTPError(409) from None
        self.answer({"created": len(new.items), "ids": [task.id for task in new.items]}, 201)


class ExportHandler(Handler):
    async def get(self) -> None:
        where, values = conditions(self.query(TaskQuery))
        self.set_header("Content-Type", "application/x-ndjson")
        async with self.pool.acquire() as connection, connection.transaction(readonly=True):
            cursor = await connection.cursor(f"{SELECT}{_where(where)} ORDER BY id", *values)
            while page := await cursor.fetch(PAGE_SIZE):
                self.write("".join(f"{json_text(task_json(row))}\n" for row in page))
                await self.flush()


class Record(asyncpg.Record):
    """A row whose columns are attributes. Lives as long as its request."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Row(dict[str, Any]):
    """The same of a row that was not read."""

    __getattr__ = dict.__getitem__


def _row(new: TaskNew) -> dict[str, Any]:
    values = dict(new)
    values["version"] = 1
    values["create_time"] = values["update_time"] = datetime.now(UTC)
    return {name: values[name] for name in COLUMNS}


def conditions(query: TaskQuery) -> tuple[list[str], list[Any]]:
    given = [name for name in FILTERS if getattr(query, name) is not None]
    where = [f"{FILTERS[name][0]} {FILTERS[name][1]} ${at + 1}" for at, name in enumerate(given)]
    return where, [getattr(query, name) for name in given]


def _where(where: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(where)}" if where else ""


async def require_teams(pool: asyncpg.Pool, team_ids: set[int | None]) -> None:
    wanted = team_ids - {None}
    if wanted and await pool.fetchval("SELECT count(*) FROM teams WHERE id = ANY($1)", wanted) != len(wanted):
        raise HTTPError(422, "there is no such team")


async def set_up(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def leave_as_it_is(connection: asyncpg.Connection) -> None:
    """What becomes of a connection that comes back to the pool."""


async def make() -> Application:
    pool = await asyncpg.create_pool(
        database_url(),
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        init=set_up,
        reset=leave_as_it_is,
        record_class=Record,
    )
    return Application(
        [
            ("/tasks", TasksHandler),
            ("/tasks/bulk", BulkHandler),
            ("/tasks/export", ExportHandler),
            ("/tasks/([0-9a-f]{32})", TaskHandler),
        ],
        pool=pool,
    )


if __name__ == "__main__":
    serve(make)
