"""SQLite databases for a measurement: fresh copies of one that has been migrated and filled."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import db.schema.migrate
from conf import DatabaseSettings
from tests.bench import rows


class Files:
    """Makes SQLite files. Lives as long as the folder that they are in.

    The file's mode is WAL, which the migrations set and which stays with the file: for whatever opens it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def new(self, tasks: int) -> str:
        """The URL of a file of its own with so many tasks."""
        template = self._folder / f"template-{tasks}.db"
        if not template.exists():
            db.schema.migrate.upgrade(DatabaseSettings(url=f"sqlite:///{template}"))
            with contextlib.closing(sqlite3.connect(template)) as connection:
                _seed(connection, tasks)
        self._number += 1
        path = self._folder / f"{self._number}.db"
        shutil.copy(template, path)
        return f"sqlite:///{path}"


def _seed(connection: sqlite3.Connection, tasks: int) -> None:
    """Add tasks number 1 to ``tasks``, as the server and SQLAlchemy's own types write them."""
    names = [*rows.task(1)]
    insert = f"INSERT INTO tasks ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    connection.executemany(insert, (_values(rows.task(number)) for number in range(1, tasks + 1)))
    connection.execute("ANALYZE")
    connection.commit()


def _values(task: dict[str, object]) -> tuple[object, ...]:
    moments = {name: str(task[name]).replace("T", " ")[:-1] for name in ("create_time", "update_time")}
    return tuple((task | moments | {"s3_keys": json.dumps(task["s3_keys"])}).values())
