"""Engines, made from settings in this one place."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr
from pydantic_core import from_json
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    ExecutionContext,
    PoolProxiedConnection,
    create_engine,
    event,
    make_url as parse_url,
)
from sqlalchemy.pool import ConnectionPoolEntry

from conf import DatabaseSettings
from db import backends
from db.backend import Backend, Role
from db.backends.choose import backend_for
from db.backends.sqlite import READ_ONLY
from db.engines._sqlalchemy import set_connection_class, terminate_on_loop
from db.engines.idle_pool import IdleAsyncPool, IdlePool, ping_after_idle
from db.errors import NotReplicated
from db.guard import OPTION, OWN, StatementGuard, guard_at_work, guard_of
from db.statement_hooks import counters, hook_statements

log = logging.getLogger("onfinish.db")

_INSIDE = ("sqlalchemy.", f"{backends.__name__}.", __name__)
"""The modules that may work with the driver's connection."""

_DRIVERS = {"postgres": "postgresql+psycopg2", "postgresql": "postgresql+psycopg2"}
"""Bare names that SQLAlchemy 2.1 refuses, or takes for psycopg 3."""


def make_url(settings: DatabaseSettings) -> URL:
    """Where the database is: the URL of the settings, or the URL that their parts make.

    The environment's ``query`` is what a URL does not say itself: ``?sslmode=…`` in the URL wins.

    Raises:
        ValueError: there is neither a URL nor a driver name.
    """
    if settings.url is not None:
        url = parse_url(settings.url.get_secret_value())
    elif settings.drivername is not None:
        password = settings.password
        url = URL.create(
            settings.drivername,
            username=settings.username,
            password=None if password is None else password.get_secret_value(),
            host=settings.host,
            port=settings.port,
            database=settings.database,
        )
    else:
        raise ValueError("no database is set: set database.url, or database.drivername and its other parts")
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    query = backend_for(url).own_query(settings.query)
    return url.update_query_dict({name: value for name, value in query.items() if name not in url.query})


def make_engine(settings: DatabaseSettings, role: Role = "writer", backend: Backend | None = None) -> Engine:
    """An engine for one kind of work, with its pool and hooks. Opens no connection yet.

    Args:
        settings: where and how.
        role: "writer" runs transactions; "reader" single statements in AUTOCOMMIT that the database
            itself keeps from writing; "migration" has no pool and no time limits.
        backend: of that database, where the caller has it already.

    Returns:
        An engine that the caller disposes of.
    """
    backend = backend or backend_for(make_url(settings), settings.pooler)
    options: dict[str, Any] = {
        # Parameters are personal data; they belong in no message and no log.
        "hide_parameters": True,
        "echo": settings.echo,
        "json_deserializer": _from_json,
        **backend.engine_options(settings, role),
    }
    pooled = "poolclass" not in options
    if pooled:
        size, overflow = backend.pool_size(settings, role)
        options |= {
            "poolclass": IdleAsyncPool if backend.is_async else IdlePool,
            "pool_size": size,
            "max_overflow": overflow,
            # For a function that opens a connection beside its session's, which holds a slot before it asks.
            "pool_timeout": settings.pool_timeout_s,
            "pool_recycle": settings.pool_recycle_s,
            "pool_use_lifo": settings.pool_use_lifo,
        }
    # `AsyncEngine` is a shell round such an engine; our calls are that shell.
    engine = create_engine(backend.engine_url(), connect_args=backend.connect_args(settings, role), **options)
    if backend.is_async:
        terminate_on_loop(engine)
    if pooled:
        ping_after_idle(engine, settings, backend)
    _install_guard(engine, backend, role, settings)
    backend.install(engine, settings, role)
    return engine


def blocking(settings: DatabaseSettings) -> DatabaseSettings:
    """The same database through a driver that blocks: for scripts, jobs and migrations.

    They are no better on an event loop, and what they run is written for a thread of its own.
    """
    url = make_url(settings)
    backend = backend_for(url, settings.pooler)
    if not backend.is_async:
        return settings
    own = url.set(drivername=backend.blocking_driver)
    own = own.difference_update_query(("prepared_statement_cache_size",))
    return settings.model_copy(
        update={
            "url": SecretStr(own.render_as_string(hide_password=False)),
            **dict.fromkeys(("drivername", "username", "password", "host", "port", "database")),
            "connect_args": backend.blocking_connect_args(settings.connect_args),
        }
    )


def read_only_view(engine: Engine) -> Engine:
    """The reader of a database that has one connection: the writer's engine, which refuses writes for it."""
    return engine.execution_options(**{READ_ONLY: True})


def _from_json(text: str | bytes) -> Any:
    """What a column of JSON holds, by the faster of two readers, unless it is too deep for that one."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _install_guard(engine: Engine, backend: Backend, role: Role, settings: DatabaseSettings) -> None:
    """Let the guard of a unit of work see its connection, its statements and its COMMIT.

    By the methods of SQLAlchemy's dialect, of which each engine has one of its own. The events of an engine
    report the same, and cost more: with one of them in use, each request looks for the listeners of eight.
    """

    connect = engine.dialect.connect

    def connect_guarded(*arguments: Any, **options: Any) -> Any:
        try:
            connection = connect(*arguments, **options)
        except backend.connection_errors() as error:  # not the driver's own: SQLAlchemy knows them not
            raise engine.dialect.loaded_dbapi.OperationalError(str(error)) from error
        # What a new connection is asked before its first transaction can hang like any other statement.
        guard = guard_at_work(backend)
        if guard is not None:
            guard.connecting(connection)
        return connection

    if role == "writer":
        set_connection_class(engine, GuardedConnection)

    own = engine.dialect
    own.connect = connect_guarded  # type: ignore[method-assign]  # do_connect is the application's
    set_options, commit, rollback = own.set_connection_execution_options, own.do_commit, own.do_rollback
    is_settable = role == "writer" and backend.isolation_is_a_transactions
    effect_of = backend.effect_of

    def take_up(connection: Connection, opts: Mapping[str, Any]) -> None:
        """The session of a unit of work has got a connection, and names that unit, before it begins."""
        guard: StatementGuard | None = opts.get(OPTION)
        if guard is not None:
            pooled = connection.connection
            pooled.info[OPTION] = guard
            guard.checked_out(pooled.dbapi_connection)
        if (level := opts.get("isolation_level")) is not None:
            asking = guard or guard_on(connection.connection)
            if asking is not None:
                asking.check_isolation(level, is_settable=is_settable)
        set_options(connection, opts)  # which may ask the server

    def do_commit(dbapi_connection: PoolProxiedConnection) -> None:
        guard = guard_on(dbapi_connection)
        if guard is None:
            commit(dbapi_connection)
            return
        guard.commit_begins()
        if guard.marker is None:
            commit(dbapi_connection)
        else:
            guard.statements += 1
            own = dbapi_connection.dbapi_connection
            try:
                backend.commit_with_marker(own, guard.marker)
            except BaseException:
                guard.marker_was_refused = backend.marker_was_refused(own)
                guard.changed_session |= guard.marker_was_refused  # its statement may be gone: DEALLOCATE
                raise
        if backend.wait_was_cancelled(dbapi_connection.dbapi_connection):
            backend.observer.unreplicated()
            if settings.unreplicated_commit == "unknown":
                raise NotReplicated
            log.warning(
                "%s: its wait for a synchronous standby was cancelled: kept, and lost if the server is",
                guard.label,
            )
        guard.commit_ended()

    def do_rollback(dbapi_connection: PoolProxiedConnection) -> None:
        guard = guard_on(dbapi_connection)
        if guard is not None:
            guard.rolled_back()
        rollback(dbapi_connection)

    def before(guard: StatementGuard, context: ExecutionContext, sql: str) -> None:
        guard.check()
        guard.check_same_transaction()
        guard.statement = sql
        effect = effect_of(sql)
        if effect:
            if OWN in context.execution_options:
                return
            guard.check_effect(effect)
        guard.statements += 1
        for count in counters:
            count(sql)

    own.set_connection_execution_options = take_up  # type: ignore[method-assign]
    own.do_commit, own.do_rollback = do_commit, do_rollback  # type: ignore[method-assign]
    hook_statements(engine, before=before)

    @event.listens_for(engine, "handle_error")
    def handle_error(context: ExceptionContext) -> None:
        guard = None if context.connection is None else guard_of(context.connection)
        if guard is not None:
            guard.met_error = True

    @event.listens_for(engine, "close")
    def closed(connection: Any, record: ConnectionPoolEntry) -> None:
        guard = record.info.pop(OPTION, None) or guard_at_work(backend)
        if guard is not None:
            guard.checked_in(connection)

    @event.listens_for(engine, "checkin")
    def checked_in(connection: Any, record: ConnectionPoolEntry) -> None:
        guard = record.info.get(OPTION)
        closed(connection, record)
        if guard is not None and guard.changed_session:
            record.invalidate()


class GuardedConnection(Connection):
    """A connection of the writer, whose guard notices where the program takes the driver's from it.

    Lives as long as the transaction of a unit of work.
    """

    @property
    def connection(self) -> PoolProxiedConnection:
        """As `Connection.connection`, which SQLAlchemy and this package use as well."""
        pooled = super().connection
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(_INSIDE):
            guard = guard_of(self)
            if guard is not None:
                guard.check()
                guard.hand_over(self)
        return pooled


def guard_on(connection: PoolProxiedConnection) -> StatementGuard | None:
    """The guard of the unit of work that has a connection of the pool, None where none has."""
    try:
        guard: StatementGuard | None = connection.info.get(OPTION)
    except NotImplementedError:  # it was dropped, and is checked in without a session
        return None
    return guard
