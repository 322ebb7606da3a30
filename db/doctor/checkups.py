"""Which examination is of which database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from conf import DatabaseSettings
from db.backend import Backend
from db.doctor import mysql, postgresql, sqlite, topology
from db.doctor.findings import Finding, Plan, ok


def _nothing_absent(backend: Backend) -> None:
    return None


def _no_roles(connection: Connection, settings: DatabaseSettings) -> Iterator[Finding]:
    yield from ()


def _alone(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    yield from ()


def _answers(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    yield ok("replica", "it answers")


def _answers_alone(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    yield ok("database", f"{connection.dialect.name} answers; nothing else is asked of it")


class Checkup(NamedTuple):
    """The questions for one kind of database. Lives as long as the process."""

    examine: Callable[[Connection, DatabaseSettings, Plan], Iterator[Finding]]
    """What there is to report of the database, asked over a connection of the reader."""

    examine_roles: Callable[[Connection, DatabaseSettings], Iterator[Finding]] = _no_roles
    """Roles that a transaction may take on, and that may not write what each transaction writes."""

    examine_replica: Callable[[Connection, DatabaseSettings, Plan], Iterator[Finding]] = _answers
    """What there is to report of a replica that reads go to, asked over a connection of the reader."""

    examine_topology: Callable[[Connection, DatabaseSettings, Plan], Iterator[Finding]] = _alone
    """The servers of a cluster, and what is lost when one of them dies, asked over that same connection."""

    absent: Callable[[Backend], Finding | None] = _nothing_absent
    """A finding where there is no database yet and a connection would make one; else None."""


_MYSQL = Checkup(mysql.examine, examine_replica=mysql.examine_replica)
_GENERIC = Checkup(_answers_alone)

_BY_DATABASE = {
    "mariadb": _MYSQL,
    "mysql": _MYSQL,
    "postgresql": Checkup(
        postgresql.examine, postgresql.examine_roles, postgresql.examine_replica, topology.examine_topology
    ),
    "sqlite": Checkup(sqlite.examine, absent=sqlite.absent),
}


def checkup_for(backend: Backend) -> Checkup:
    """The examination of a backend's database, which is the same behind a pooler."""
    return _BY_DATABASE.get(backend.url.get_backend_name(), _GENERIC)
