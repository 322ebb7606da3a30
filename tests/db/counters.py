"""A table of numbers and the functions that count in it: work small enough to see what became of it."""

from __future__ import annotations

import time

from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.fixtures.databases import RawSql


def create_counters(sql: RawSql) -> None:
    """Make the table ``counters`` with one row, number 1, at 0."""
    sql("CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL)")
    sql("INSERT INTO counters VALUES (1, 0)")


def create_families(sql: RawSql) -> None:
    """Make tables whose foreign key speaks only at COMMIT."""
    sql("CREATE TABLE parents (id integer PRIMARY KEY)")
    sql(
        "CREATE TABLE children (id integer PRIMARY KEY, parent_id integer NOT NULL"
        " CONSTRAINT children_parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
    )


def add(session: Session, amount: int = 1, counter: int = 1) -> None:
    """Count on."""
    session.execute(
        text("UPDATE counters SET n = n + :amount WHERE id = :id"), {"amount": amount, "id": counter}
    )


def read_then_write(session: Session, pause_s: float = 0.0) -> None:
    """Count on the way that loses updates where two do it at once on what both have read."""
    lock = " FOR UPDATE" if session.get_bind().dialect.name == "postgresql" else ""
    n = session.scalar(text(f"SELECT n FROM counters WHERE id = 1{lock}"))
    time.sleep(pause_s)
    session.execute(text("UPDATE counters SET n = :n WHERE id = 1"), {"n": n + 1})


def orphan(session: Session) -> None:
    """A child without a parent, which is found out at COMMIT."""
    session.execute(text("INSERT INTO children VALUES (1, 99)"))


def read(session: Session, counter: int = 1) -> int:
    """The number."""
    n: int = session.scalar(text("SELECT n FROM counters WHERE id = :id"), {"id": counter})
    return n


def value(sql: RawSql, counter: int = 1) -> int:
    """The number as another connection sees it: what was committed."""
    [row] = sql("SELECT n FROM counters WHERE id = :id", id=counter)
    n: int = row["n"]
    return n


def sleep(session: Session, seconds: float) -> None:
    """A statement that takes a while in the database itself; on SQLite until it is interrupted."""
    name = session.get_bind().dialect.name
    if name == "postgresql":
        session.execute(text("SELECT pg_sleep(:s)"), {"s": seconds})
    elif name in ("mysql", "mariadb"):
        session.execute(text("SELECT sleep(:s)"), {"s": seconds})
    else:
        session.execute(
            text("WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT count(*) FROM t")
        )
