"""FastAPI with SQLAlchemy's AsyncSession on asyncpg or aiosqlite: a dependency gives it, views commit.

https://fastapi.tiangolo.com/tutorial/sql-databases/ and
https://docs.sqlalchemy.org/en/21/orm/extensions/asyncio.html. Run by uvicorn as it comes with
``uvicorn[standard]``, which brings uvloop and httptools.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Path, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import JSON, insert, select, text, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.bench.peers.contract import (
    COMPARE,
    FILTERS,
    PAGE_SIZE,
    POOL_SIZE,
    CreatedOut,
    PageOut,
    StatusForbidden,
    TaskChange,
    TaskId,
    TaskNew,
    TaskOut,
    TaskQuery,
    TasksNew,
    changes,
    cursor_of,
    database_url,
    json_text,
    position_of,
    task_json,
)
from tests.bench.peers.sqlite import MOMENT, enforce_foreign_keys

engine = create_async_engine(
    database_url("postgresql+asyncpg", "sqlite+aiosqlite"), pool_size=POOL_SIZE, max_overflow=0
)
enforce_foreign_keys(engine.sync_engine)
make_session = async_sessionmaker(engine, expire_on_commit=False)


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
    create_time: Mapped[datetime] = mapped_column(MOMENT)
    update_time: Mapped[datetime] = mapped_column(MOMENT)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


app = FastAPI()
SessionDep = Annotated[AsyncSession, Depends(get_session)]
TaskIdPath = Annotated[TaskId, Path()]


@app.get("/readyz")
async def readyz(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))


@app.get("/tasks/export")
async def export(query: Annotated[TaskQuery, Query()], session: SessionDep) -> StreamingResponse:
    statement = select(*Task.__table__.columns).where(*conditions(query)).order_by(Task.id)

    async def lines() -> AsyncIterator[bytes]:
        rows = await session.stream(statement, execution_options={"yield_per": PAGE_SIZE})
        async for page in rows.partitions():
            yield "".join(f"{json_text(task_json(row))}\n" for row in page).encode()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/tasks/{task_id}")
async def read_task(task_id: TaskIdPath, session: SessionDep) -> TaskOut:
    task = await session.get(Task, task_id)
    if task is None:
        raise HTTPException(404)
    return task  # type: ignore[return-value]  # FastAPI makes it one


@app.get("/tasks")
async def list_tasks(query: Annotated[TaskQuery, Query()], session: SessionDep) -> PageOut:
    statement = select(Task).where(*conditions(query))
    if query.cursor is not None:
        statement = statement.where(tuple_(Task.create_time, Task.id) < tuple_(*position_of(query.cursor)))
    newest_first = statement.order_by(Task.create_time.desc(), Task.id.desc())
    tasks = (await session.scalars(newest_first.limit(query.limit + 1))).all()
    page = tasks[: query.limit]
    next_cursor = cursor_of(page[-1]) if len(tasks) > len(page) else None
    return {"items": page, "next_cursor": next_cursor}  # type: ignore[return-value]


@app.post("/tasks", status_code=201)
async def create_task(new: TaskNew, session: SessionDep) -> TaskOut:
    await require_team(session, new.team_id)
    moment = datetime.now(UTC)
    task = Task(**new.model_dump(), create_time=moment, update_time=moment)
    session.add(task)
    await commit(session)
    return task  # type: ignore[return-value]


@app.post("/tasks/bulk", status_code=201)
async def create_tasks(new: TasksNew, session: SessionDep) -> CreatedOut:
    for team_id in {task.team_id for task in new.items}:
        await require_team(session, team_id)
    moment = datetime.now(UTC)
    times = {"version": 1, "create_time": moment, "update_time": moment}
    await session.execute(insert(Task), [task.model_dump() | times for task in new.items])
    await commit(session)
    return CreatedOut(created=len(new.items), ids=[task.id for task in new.items])


@app.patch("/tasks/{task_id}")
async def update_task(task_id: TaskIdPath, change: TaskChange, session: SessionDep) -> TaskOut:
    task = await session.get(Task, task_id, with_for_update=True)
    if task is None:
        raise HTTPException(404)
    try:
        for name, value in changes(change, lambda name: getattr(task, name)).items():
            setattr(task, name, value)
    except StatusForbidden as error:
        raise HTTPException(409, str(error)) from None
    await commit(session)
    return task  # type: ignore[return-value]


def conditions(query: TaskQuery) -> list[Any]:
    return [
        COMPARE[how](getattr(Task, column), getattr(query, name))
        for name, (column, how) in FILTERS.items()
        if getattr(query, name) is not None
    ]


async def require_team(session: AsyncSession, team_id: int | None) -> None:
    if team_id is not None and await session.get(Team, team_id) is None:
        raise HTTPException(422, "there is no such team")


async def commit(session: AsyncSession) -> None:
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409) from None


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
