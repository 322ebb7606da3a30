"""Tornado with SQLAlchemy Core on asyncpg, written by hand: no session, no ORM, statements built once.

What SQLAlchemy can do where nothing but its Core is used; applications with sessions are slower.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    bindparam,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tornado.web import Application, HTTPError

from tests.bench.peers.contract import (
    COMPARE,
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

metadata = MetaData()
teams = Table("teams", metadata, Column("id", BigInteger, primary_key=True))
tasks = Table(
    "tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("task_status", SmallInteger),
    Column("s3_keys", JSON),
    Column("bundle", String(64)),
    Column("granularity", String(8)),
    Column("target_date", Date),
    Column("change_id", Integer),
    Column("team_id", BigInteger),
    Column("version", Integer),
    Column("create_time", DateTime(timezone=True)),
    Column("update_time", DateTime(timezone=True)),
)
ONE = select(tasks).where(tasks.c.id == bindparam("task_id"))
LOCKED = ONE.with_for_update()
LIST = select(tasks).order_by(tasks.c.create_time.desc(), tasks.c.id.desc()).limit(bindparam("most"))
INSERT = insert(tasks)
UPDATE = update(tasks).where(tasks.c.id == bindparam("task_id"))
KNOWN_TEAMS = select(func.count()).select_from(teams)


class Handler(JsonHandler):
    """Lives as long as its request."""

    @property
    def reader(self) -> AsyncEngine:
        return self.settings["reader"]

    @property
    def writer(self) -> AsyncEngine:
        return self.settings["writer"]


class TasksHandler(Handler):
    async def get(self) -> None:
        query = self.query(TaskQuery)
        statement = LIST.where(*conditions(query)) if query.model_fields_set - {"limit", "cursor"} else LIST
        if query.cursor is not None:
            place = tuple_(tasks.c.create_time, tasks.c.id)
            statement = statement.where(place < tuple_(*position_of(query.cursor)))
        async with self.reader.connect() as connection:
            rows = (await connection.execute(statement, {"most": query.limit + 1})).all()
        page = rows[: query.limit]
        next_cursor = cursor_of(page[-1]) if len(rows) > len(page) else None
        self.answer({"items": [task_json(row) for row in page], "next_cursor": next_cursor})

    async def post(self) -> None:
        new = self.body(TaskNew)
        row = _row(new, datetime.now(UTC))
        try:
            async with self.writer.begin() as connection:
                await require_teams(connection, {new.team_id})
                await connection.execute(INSERT, row)
        except IntegrityError:
            raise HTTPError(409) from None
        self.answer(task_json(Row(row)), 201)


class TaskHandler(Handler):
    async def get(self, task_id: str) -> None:
        async with self.reader.connect() as connection:
            row = (await connection.execute(ONE, {"task_id": task_id})).one_or_none()
        if row is None:
            raise HTTPError(404)
        self.answer(task_json(row))

    async def patch(self, task_id: str) -> None:
        change = self.body(TaskChange)
        async with self.writer.begin() as connection:
            row = (await connection.execute(LOCKED, {"task_id": task_id})).one_or_none()
            if row is None:
                raise HTTPError(404)
            try:
                changed = changes(change, lambda name: getattr(row, name))
            except StatusForbidden as error:
                raise HTTPError(409, str(error)) from None
            if changed:
                await connection.execute(UPDATE, {"task_id": task_id, **changed})
        self.answer(task_json(Row({**row._mapping, **changed})))


class BulkHandler(Handler):
    async def post(self) -> None:
        new = self.body(TasksNew)
        moment = datetime.now(UTC)
        try:
            async with self.writer.begin() as connection:
                await require_teams(connection, {task.team_id for task in new.items})
                await connection.execute(INSERT, [_row(task, moment) for task in new.items])
        except IntegrityError:
            raise HTTPError(409) from None
        self.answer({"created": len(new.items), "ids": [task.id for task in new.items]}, 201)


class ExportHandler(Handler):
    async def get(self) -> None:
        statement = select(tasks).where(*conditions(self.query(TaskQuery))).order_by(tasks.c.id)
        self.set_header("Content-Type", "application/x-ndjson")
        async with self.writer.begin() as connection:
            rows = await connection.stream(statement, execution_options={"yield_per": PAGE_SIZE})
            async for page in rows.partitions():
                self.write("".join(f"{json_text(task_json(row))}\n" for row in page))
                await self.flush()


class Row(dict[str, Any]):
    """A row that was not read. Lives as long as its request."""

    __getattr__ = dict.__getitem__


def _row(new: TaskNew, moment: datetime) -> dict[str, Any]:
    return {**dict(new), "version": 1, "create_time": moment, "update_time": moment}


def conditions(query: TaskQuery) -> list[Any]:
    return [
        COMPARE[how](tasks.c[column], getattr(query, name))
        for name, (column, how) in FILTERS.items()
        if getattr(query, name) is not None
    ]


async def require_teams(connection: AsyncConnection, team_ids: set[int | None]) -> None:
    wanted = [team_id for team_id in team_ids if team_id is not None]
    if wanted and await connection.scalar(KNOWN_TEAMS.where(teams.c.id.in_(wanted))) != len(wanted):
        raise HTTPError(422, "there is no such team")


async def make() -> Application:
    url, options = database_url("postgresql+asyncpg"), {"pool_size": POOL_SIZE, "max_overflow": 0}
    return Application(
        [
            ("/tasks", TasksHandler),
            ("/tasks/bulk", BulkHandler),
            ("/tasks/export", ExportHandler),
            ("/tasks/([0-9a-f]{32})", TaskHandler),
        ],
        reader=create_async_engine(url, isolation_level="AUTOCOMMIT", **options),
        writer=create_async_engine(url, **options),
    )


if __name__ == "__main__":
    serve(make)
