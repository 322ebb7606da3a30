"""Litestar with advanced-alchemy and asyncpg: a plugin gives the session and commits before the answer.

https://docs.advanced-alchemy.litestar.dev/latest/usage/frameworks/litestar.html. Run by uvicorn as it comes
with ``uvicorn[standard]``, which brings uvloop and httptools.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from typing import Any

import uvicorn
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
)
from litestar import Litestar, Request, Response, get, patch, post
from litestar.exceptions import HTTPException, ValidationException
from litestar.plugins.pydantic import PydanticPlugin
from pydantic import ValidationError
from sqlalchemy import JSON, DateTime, insert, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.bench.peers.contract import (
    COMPARE,
    FILTERS,
    POOL_SIZE,
    CreatedOut,
    PageOut,
    StatusForbidden,
    TaskChange,
    TaskNew,
    TaskOut,
    TaskQuery,
    TasksNew,
    changes,
    cursor_of,
    database_url,
    position_of,
)


class Base(DeclarativeBase):
    pass


class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)


class Task(Base):
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


@get("/tasks/{task_id:str}")
async def read_task(task_id: str, db_session: AsyncSession) -> TaskOut:
    task = await db_session.get(Task, task_id)
    if task is None:
        raise HTTPException(status_code=404)
    return TaskOut.model_validate(task)


@get("/tasks")
async def list_tasks(request: Request[Any, Any, Any], db_session: AsyncSession) -> PageOut:
    query = TaskQuery.model_validate(dict(request.query_params))
    statement = select(Task).where(*conditions(query))
    if query.cursor is not None:
        statement = statement.where(tuple_(Task.create_time, Task.id) < tuple_(*position_of(query.cursor)))
    newest_first = statement.order_by(Task.create_time.desc(), Task.id.desc())
    tasks = (await db_session.scalars(newest_first.limit(query.limit + 1))).all()
    page = tasks[: query.limit]
    next_cursor = cursor_of(page[-1]) if len(tasks) > len(page) else None
    return PageOut(items=[TaskOut.model_validate(task) for task in page], next_cursor=next_cursor)


@post("/tasks")
async def create_task(data: TaskNew, db_session: AsyncSession) -> TaskOut:
    await require_team(db_session, data.team_id)
    moment = datetime.now(UTC)
    task = Task(**data.model_dump(), create_time=moment, update_time=moment)
    db_session.add(task)
    await flush(db_session)
    return TaskOut.model_validate(task)


@post("/tasks/bulk")
async def create_tasks(data: TasksNew, db_session: AsyncSession) -> CreatedOut:
    for team_id in {task.team_id for task in data.items}:
        await require_team(db_session, team_id)
    moment = datetime.now(UTC)
    times = {"version": 1, "create_time": moment, "update_time": moment}
    await db_session.execute(insert(Task), [task.model_dump() | times for task in data.items])
    return CreatedOut(created=len(data.items), ids=[task.id for task in data.items])


@patch("/tasks/{task_id:str}")
async def update_task(task_id: str, data: TaskChange, db_session: AsyncSession) -> TaskOut:
    task = await db_session.get(Task, task_id, with_for_update=True)
    if task is None:
        raise HTTPException(status_code=404)
    try:
        for name, value in changes(data, lambda name: getattr(task, name)).items():
            setattr(task, name, value)
    except StatusForbidden as error:
        raise HTTPException(str(error), status_code=409) from None
    await flush(db_session)
    return TaskOut.model_validate(task)


def conditions(query: TaskQuery) -> list[Any]:
    return [
        COMPARE[how](getattr(Task, column), getattr(query, name))
        for name, (column, how) in FILTERS.items()
        if getattr(query, name) is not None
    ]


async def require_team(session: AsyncSession, team_id: int | None) -> None:
    if team_id is not None and await session.get(Team, team_id) is None:
        raise HTTPException("there is no such team", status_code=422)


async def flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except IntegrityError:
        raise HTTPException(status_code=409) from None


def invalid(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return Response({"detail": "invalid"}, status_code=422)


app = Litestar(
    [read_task, list_tasks, create_task, create_tasks, update_task],
    exception_handlers={ValidationException: invalid, ValidationError: invalid},
    plugins=[
        PydanticPlugin(validate_strict=True),
        SQLAlchemyPlugin(
            config=SQLAlchemyAsyncConfig(
                connection_string=database_url("postgresql+asyncpg"),
                before_send_handler="autocommit",
                session_config=AsyncSessionConfig(expire_on_commit=False),
                engine_config=EngineConfig(pool_size=POOL_SIZE, max_overflow=0),
            )
        ),
    ],
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
