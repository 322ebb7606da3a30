"""tornado-sqlalchemy 0.8 with psycopg2: `SessionMixin.make_session`, and queries in threads by `as_future`.

https://github.com/siddhantgoel/tornado-sqlalchemy. Its threads are as many as its connections, not as the
processors, since two threads would be all that it does at once on a small machine. `make_session` commits in
the event loop, which is how it is documented.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, insert, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column
from tornado.web import Application, HTTPError
from tornado_sqlalchemy import SessionMixin, SQLAlchemy, as_future, set_max_workers

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

db = SQLAlchemy(
    database_url("postgresql+psycopg2"),
    engine_options={"pool_size": POOL_SIZE, "max_overflow": 0},
    session_options={"expire_on_commit": False},
)


class Team(db.Model):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)


class Task(db.Model):
    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(primary_key=True)
    task_status: Mapped[int]
    s3_keys: Mapped[dict[str, Any]] = mapped_column(JSON)
    bundle: Mapped[str]
    granularity: Mapped[str]
    target_date: Mapped[date]
    change_id: Mapped[int]
    team_id: Mapped[int | None]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    update_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Handler(SessionMixin, JsonHandler):
    """Lives as long as its request. One `as_future` a request: a second one could wait for a thread whose
    connection is waited for."""


class TasksHandler(Handler):
    async def get(self) -> None:
        query = self.query(TaskQuery)
        statement = select(Task).where(*conditions(query))
        if query.cursor is not None:
            statement = statement.where(
                tuple_(Task.create_time, Task.id) < tuple_(*position_of(query.cursor))
            )
        statement = statement.order_by(Task.create_time.desc(), Task.id.desc()).limit(query.limit + 1)
        with self.make_session() as session:
            tasks = await as_future(lambda: session.scalars(statement).all())
            page = tasks[: query.limit]
            next_cursor = cursor_of(page[-1]) if len(tasks) > len(page) else None
            answer = {"items": [task_json(task) for task in page], "next_cursor": next_cursor}
        self.answer(answer)

    async def post(self) -> None:
        new = self.body(TaskNew)

        def create() -> Task:
            require_team(session, new.team_id)
            moment = datetime.now(UTC)
            task = Task(**new.model_dump(), create_time=moment, update_time=moment)
            session.add(task)
            session.flush()
            return task

        try:
            with self.make_session() as session:
                answer = task_json(await as_future(create))
        except IntegrityError:
            raise HTTPError(409) from None
        self.answer(answer, 201)


class TaskHandler(Handler):
    async def get(self, task_id: str) -> None:
        with self.make_session() as session:
            task = await as_future(lambda: session.get(Task, task_id))
            if task is None:
                raise HTTPError(404)
            answer = task_json(task)
        self.answer(answer)

    async def patch(self, task_id: str) -> None:
        change = self.body(TaskChange)

        def update() -> Task:
            task = session.get(Task, task_id, with_for_update=True)
            if task is None:
                raise HTTPError(404)
            for name, value in changes(change, lambda name: getattr(task, name)).items():
                setattr(task, name, value)
            session.flush()
            return task

        try:
            with self.make_session() as session:
                answer = task_json(await as_future(update))
        except StatusForbidden as error:
            raise HTTPError(409, str(error)) from None
        self.answer(answer)


class BulkHandler(Handler):
    async def post(self) -> None:
        new = self.body(TasksNew)

        def create() -> None:
            for team_id in {task.team_id for task in new.items}:
                require_team(session, team_id)
            moment = datetime.now(UTC)
            times = {"version": 1, "create_time": moment, "update_time": moment}
            session.execute(insert(Task), [task.model_dump() | times for task in new.items])

        try:
            with self.make_session() as session:
                await as_future(create)
        except IntegrityError:
            raise HTTPError(409) from None
        self.answer({"created": len(new.items), "ids": [task.id for task in new.items]}, 201)


class ExportHandler(Handler):
    async def get(self) -> None:
        query = self.query(TaskQuery)
        statement = select(*Task.__table__.columns).where(*conditions(query)).order_by(Task.id)
        self.set_header("Content-Type", "application/x-ndjson")
        with self.make_session() as session:
            pages = read(session, statement)
            while (page := await as_future(lambda: next(pages, None))) is not None:
                self.write("".join(f"{json_text(task_json(row))}\n" for row in page))
                await self.flush()


def read(session: Session, statement: Any) -> Iterator[Sequence[Any]]:
    yield from session.execute(statement, execution_options={"yield_per": PAGE_SIZE}).partitions()


def conditions(query: TaskQuery) -> list[Any]:
    return [
        COMPARE[how](getattr(Task, column), getattr(query, name))
        for name, (column, how) in FILTERS.items()
        if getattr(query, name) is not None
    ]


def require_team(session: Session, team_id: int | None) -> None:
    if team_id is not None and session.get(Team, team_id) is None:
        raise HTTPError(422, "there is no such team")


async def make() -> Application:
    set_max_workers(POOL_SIZE)
    return Application(
        [
            ("/tasks", TasksHandler),
            ("/tasks/bulk", BulkHandler),
            ("/tasks/export", ExportHandler),
            ("/tasks/([0-9a-f]{32})", TaskHandler),
        ],
        db=db,
    )


if __name__ == "__main__":
    serve(make)
