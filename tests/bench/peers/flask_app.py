"""Flask-SQLAlchemy with psycopg2 or SQLite: `db.session`, committed by the view. https://flask-sqlalchemy.readthedocs.io

Run by gunicorn with one process of sixteen threads, one for each connection of the load.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from flask import Flask, Response, abort, jsonify, request, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from pydantic import ValidationError
from sqlalchemy import JSON, insert, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.exceptions import HTTPException

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
from tests.bench.peers.sqlite import MOMENT, enforce_foreign_keys


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = database_url("postgresql+psycopg2")
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": POOL_SIZE, "max_overflow": 0}
app.json.sort_keys = False
db.init_app(app)
with app.app_context():
    enforce_foreign_keys(db.engine)


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
    create_time: Mapped[datetime] = mapped_column(MOMENT)
    update_time: Mapped[datetime] = mapped_column(MOMENT)


@app.errorhandler(ValidationError)
def refused(error: ValidationError) -> tuple[Response, int]:
    return jsonify(errors=error.errors(include_url=False, include_context=False, include_input=False)), 422


@app.errorhandler(HTTPException)
def problem(error: HTTPException) -> tuple[Response, int]:
    return jsonify(title=error.name, detail=error.description), error.code or 500


@app.errorhandler(IntegrityError)
def conflict(error: IntegrityError) -> tuple[Response, int]:
    return jsonify(title="Conflict"), 409


@app.get("/tasks/export")
def export() -> Response:
    query = TaskQuery(**request.args)
    statement = select(*Task.__table__.columns).where(*conditions(query)).order_by(Task.id)

    def lines() -> Iterator[bytes]:
        rows = db.session.execute(statement, execution_options={"yield_per": PAGE_SIZE})
        for page in rows.partitions():
            yield "".join(f"{json_text(task_json(row))}\n" for row in page).encode()

    return Response(stream_with_context(lines()), mimetype="application/x-ndjson")


@app.get("/tasks/<task_id>")
def read_task(task_id: str) -> Response:
    return jsonify(task_json(db.get_or_404(Task, task_id)))


@app.get("/tasks")
def list_tasks() -> Response:
    query = TaskQuery(**request.args)
    statement = select(Task).where(*conditions(query))
    if query.cursor is not None:
        statement = statement.where(tuple_(Task.create_time, Task.id) < tuple_(*position_of(query.cursor)))
    newest_first = statement.order_by(Task.create_time.desc(), Task.id.desc())
    tasks = db.session.scalars(newest_first.limit(query.limit + 1)).all()
    page = tasks[: query.limit]
    next_cursor = cursor_of(page[-1]) if len(tasks) > len(page) else None
    return jsonify(items=[task_json(task) for task in page], next_cursor=next_cursor)


@app.post("/tasks")
def create_task() -> tuple[Response, int]:
    new = TaskNew(**request.get_json())
    require_team(new.team_id)
    moment = datetime.now(UTC)
    task = Task(**new.model_dump(), create_time=moment, update_time=moment)
    db.session.add(task)
    db.session.flush()
    answer = task_json(task)
    db.session.commit()  # which expires the task
    return jsonify(answer), 201


@app.post("/tasks/bulk")
def create_tasks() -> tuple[Response, int]:
    new = TasksNew(**request.get_json())
    for team_id in {task.team_id for task in new.items}:
        require_team(team_id)
    moment = datetime.now(UTC)
    times = {"version": 1, "create_time": moment, "update_time": moment}
    db.session.execute(insert(Task), [task.model_dump() | times for task in new.items])
    db.session.commit()
    return jsonify(created=len(new.items), ids=[task.id for task in new.items]), 201


@app.patch("/tasks/<task_id>")
def update_task(task_id: str) -> Response:
    change = TaskChange(**request.get_json())
    task = db.session.get(Task, task_id, with_for_update=True)
    if task is None:
        abort(404)
    try:
        for name, value in changes(change, lambda name: getattr(task, name)).items():
            setattr(task, name, value)
    except StatusForbidden as error:
        abort(409, str(error))
    db.session.flush()
    answer = task_json(task)
    db.session.commit()
    return jsonify(answer)


def conditions(query: TaskQuery) -> list[Any]:
    return [
        COMPARE[how](getattr(Task, column), getattr(query, name))
        for name, (column, how) in FILTERS.items()
        if getattr(query, name) is not None
    ]


def require_team(team_id: int | None) -> None:
    if team_id is not None and db.session.get(Team, team_id) is None:
        abort(422, "there is no such team")
