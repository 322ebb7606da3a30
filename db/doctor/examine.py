"""An examination of the database and of the way to it, without changing anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util.concurrency import greenlet_spawn

from conf import DatabaseSettings
from conf.masks import mask_text
from db.backend import Backend
from db.backends.choose import backend_for
from db.backends.packages import way_to_install
from db.backends.refusals import way_in, words_of
from db.doctor.checkups import checkup_for
from db.doctor.findings import Finding, Plan, error, ok, warning
from db.engines.engine import blocking, make_engine, make_url
from db.schema import migrate

_SLOW_MS = 50.0


def examine(settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Everything that can be found out, a finding at a time, while it is looked for."""
    backend = backend_for(make_url(settings), settings.pooler)
    try:
        engine = make_engine(settings, "reader", backend)
    except ModuleNotFoundError as missing:
        yield error("driver", f"{missing.name} is not installed", way_to_install(missing) or "")
        return
    except TypeError as fault:  # an argument that create_engine or the driver does not know
        yield error("driver", mask_text(str(fault)), "look at database.connect_args and database.query")
        return
    driver = engine.dialect.dbapi
    version = getattr(driver, "__version__", "").partition(" ")[0]  # psycopg2 adds what it was built with
    yield ok("driver", " ".join(filter(None, [getattr(driver, "__name__", engine.driver), version])))
    own_engine = engine
    if backend.is_async:  # the questions are asked in a thread; the driver itself is tried at the end
        settings = blocking(settings)
        backend = backend_for(make_url(settings), settings.pooler)
        engine = make_engine(settings, "reader", backend)
    checkup = checkup_for(backend)
    absent = checkup.absent(backend)
    if absent is not None:
        yield absent
        return
    try:
        began = time.perf_counter()
        with engine.connect() as connection:
            connect_ms = (time.perf_counter() - began) * 1000
            yield _connection(connection, connect_ms)
            yield from _schema(connection, backend, settings)
            yield from checkup.examine(connection, settings, plan)
            yield from checkup.examine_topology(connection, settings, plan)
            yield from checkup.examine_roles(connection, settings)
        _try(make_engine(settings, "writer", backend))  # it asks for other things than the reader
        yield ok("writer", "it can begin a transaction")
        if settings.reader_url is not None:
            yield from _replica(blocking(settings.for_reader()), plan)
        if own_engine is not engine:
            asyncio.run(greenlet_spawn(_try, own_engine))
            yield ok("event loop", f"{own_engine.driver} can be worked with on it")
    except DBAPIError as fault:
        yield _refused(backend, fault)
    finally:
        engine.dispose()


def _connection(connection: Connection, connect_ms: float) -> Finding:
    began = time.perf_counter()
    connection.exec_driver_sql("SELECT 1")
    trip_ms = (time.perf_counter() - began) * 1000
    told = f"made in {connect_ms:.0f} ms, a round trip takes {trip_ms:.1f} ms"
    if trip_ms > _SLOW_MS:
        return warning(
            "connection", told, "bring service and database nearer together: a request makes several"
        )
    return ok("connection", told)


def _replica(settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """The place that reads go to, where it is another one."""
    backend = backend_for(make_url(settings), settings.pooler)
    engine = make_engine(settings, "reader", backend)
    try:
        with engine.connect() as connection:
            at = migrate.current_on(connection, version_table=settings.version_table)
            expected = migrate.head(settings.models)
            if at != expected:
                fix = "wait until it has caught up, or see what keeps it from that"
                yield error("replica", f"its schema is at {at}, the code expects {expected}", fix)
            yield from checkup_for(backend).examine_replica(connection, settings, plan)
    except DBAPIError as fault:
        yield _refused(backend, fault, "replica")
    finally:
        engine.dispose()


def _try(engine: Engine) -> None:
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()


def _schema(connection: Connection, backend: Backend, settings: DatabaseSettings) -> Iterator[Finding]:
    version_table, models = settings.version_table, settings.models
    at, expected = migrate.current_on(connection, version_table=version_table), migrate.head(models)
    unknown = migrate.unknown_on(connection, version_table=version_table, models=models)
    if at != expected or unknown is not None:
        told = f"is at {at}" if at else "there is none"
        if unknown is not None:
            yield error("schema", *unknown)
        elif backend.shares_one_connection:
            yield ok("schema", "in memory: `serve` makes it")
        elif backend.belongs_to_process:
            yield warning(
                "schema", f"{told}, the code expects {expected}", f"{migrate.WAY_OUT}, or `serve` does it"
            )
        else:
            yield error("schema", f"{told}, the code expects {expected}", migrate.WAY_OUT)
        return
    differences = migrate.drift_on(connection, version_table=version_table, models=models)
    if differences:
        fix = "undo by hand what was changed by hand, or write a revision for it"
        yield from (error("drift", difference, fix) for difference in differences)
    else:
        yield ok("schema", f"is at {at}, and its tables are as the code has them")


def _refused(backend: Backend, fault: DBAPIError, subject: str = "connection") -> Finding:
    words = words_of(fault)
    return error(subject, f"{backend.translate(fault)}: {words}", way_in(words, backend))
