"""What a scope costs: to find the session, to answer a request, and what stays behind."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import make_engine
from db.engines.engine import blocking
from db.scope import SCOPES, Contextvar, Registry
from db.scope.contextvar import current_session
from server.compare.load import TEXT, Subject, Turn, drive
from server.compare.model import Entry
from server.compare.processes import Worker
from server.compare.scratch import scratch_database
from server.compare.subjects import POOL_SIZE, serve, under_every_scope

_CALLS = 20_000
_REPEATS = 9

TWIN = "explicit, again"
"""The same program in one more process: its difference from the first is noise."""

START_S = 30.0


def lookups() -> dict[str, dict[str, float]]:
    """How long it takes to have the session, and an attribute of it, in nanoseconds.

    Returns:
        By scope: ``lookup_ns`` and ``attribute_ns``, the least of several, since a disturbance only adds to
        it, each with its ``_spread_ns``, how far the median is above. Of explicit it is the argument itself.
    """
    session = Session()
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        for name, make in SCOPES.items():
            scope = make(None)  # type: ignore[arg-type]  # it makes no session here
            stack.enter_context(scope.entered(session))
            names: dict[str, Any] = {"session": session}
            expression = "session"
            if isinstance(scope, Contextvar):
                names, expression = {"current_session": current_session}, "current_session()"
            elif isinstance(scope, Registry):
                names, expression = {"sessions": scope.sessions}, "sessions()"
            attribute = "sessions.info" if isinstance(scope, Registry) else f"{expression}.info"
            lookup, lookup_spread = _nanoseconds(expression, names)
            one, one_spread = _nanoseconds(attribute, names)
            found[name] = {
                "lookup_ns": lookup,
                "lookup_spread_ns": lookup_spread,
                "attribute_ns": one,
                "attribute_spread_ns": one_spread,
            }
    session.close()
    return found


def _nanoseconds(expression: str, names: dict[str, Any]) -> tuple[float, float]:
    # As locals of a function, as an argument is one.
    setup = "\n".join(f"{name} = _names['{name}']" for name in names)
    timer = timeit.Timer(expression, setup, globals={"_names": names})
    times = [took / _CALLS * 1e9 for took in timer.repeat(_REPEATS, _CALLS)]
    return round(min(times), 1), round(statistics.median(times) - min(times), 1)


def load(
    settings: DatabaseSettings,
    scopes: Sequence[str],
    rounds: int,
    turn: Turn,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Put a server under each scope under load, by turns.

    Args:
        settings: where the servers' scratch databases are made; each has its own.
        scopes: their names.
        rounds: how many turns each has.
        turn: the requests of one turn.
        progress: called with what is being done.

    Returns:
        By server: its turns, what it held ``before`` and ``after``, what it answered ``afterwards``, and how
        many of the acknowledged ``rows`` are there.
    """
    names = {name: name for name in scopes} | ({TWIN: "explicit"} if "explicit" in scopes else {})
    with ExitStack() as stack:
        subjects = []
        workers = []
        databases = {}
        for name in names:
            own = stack.enter_context(scratch_database(settings)).model_copy(
                update={
                    "pool_size": POOL_SIZE,
                    "pool_timeout_s": 5.0,  # longer than `CUT_OFF_S`
                    "busy_timeout_s": 0.5,
                }
            )
            databases[name] = own
            workers.append((name, stack.enter_context(Worker(serve, own, under_every_scope))))
        for name, worker in workers:
            subjects.append(Subject(name, names[name], worker.receive(START_S)))
        driver = stack.enter_context(Worker(drive, subjects, rounds, turn))
        while True:
            received = driver.receive(START_S + 120)
            if isinstance(received, str):
                progress(received)
                continue
            measured: dict[str, Any] = received
            for name, own in databases.items():
                measured[name]["rows"] = _rows(own)
            return measured


def _rows(settings: DatabaseSettings) -> int:
    """How many rows of the load are in the database."""
    engine = make_engine(blocking(settings), "reader")
    try:
        with engine.connect() as connection:
            return connection.scalars(select(func.count()).where(Entry.text == TEXT)).one()
    finally:
        engine.dispose()


def send_lookups(pipe: Connection) -> None:
    """`lookups`, from a process that does nothing else."""
    pipe.send(lookups())


__all__ = ["START_S", "TWIN", "load", "lookups", "send_lookups"]
