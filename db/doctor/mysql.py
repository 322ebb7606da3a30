"""An examination of a MySQL or MariaDB server, of the way to it, and of what it grants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, text

from conf import DatabaseSettings
from db.doctor.findings import Finding, Plan, clock, error, ok, version, warning

_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}  # the first with SKIP LOCKED

_LOOK = text("""
    SELECT version() AS version, @@max_connections AS max_connections,
           @@innodb_flush_log_at_trx_commit AS flush, utc_timestamp(6) AS now, @@read_only AS read_only
""")


def examine(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at what can be asked of the reader's connection. Changes nothing."""
    found = connection.execute(_LOOK).mappings().one()
    yield from _server(found)
    yield from _limiter(found, settings, plan)
    yield from _tls(connection, plan)
    if found["flush"] != 1:
        report = error if plan.production else warning
        fix = "set innodb_flush_log_at_trx_commit = 1 on the server"
        yield report("durability", "what was acknowledged may be lost when the server crashes", fix)
    else:
        yield ok("durability", "what is acknowledged is on the server's disk")


def _server(found: Any) -> Iterator[Finding]:
    name = "MariaDB" if "MariaDB" in found["version"] else "MySQL"
    number = found["version"].partition("-")[0]
    oldest = _OLDEST[name]
    is_too_old = tuple(map(int, number.split(".")[:2])) < oldest
    yield version(name, number, ".".join(map(str, oldest)), is_too_old=is_too_old)
    if found["read_only"]:
        yield error("server", "it is read-only, as replicas are", "name the primary")
    yield from clock(found["now"].replace(tzinfo=UTC))


def _limiter(found: Any, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    writer = settings.pool_size + settings.max_overflow
    reader = settings.reader_pool_size if settings.reader_pool_size is not None else writer
    wanted, most = (writer + reader) * plan.processes, int(found["max_connections"])
    told = f"{wanted} connections at most of {most} (max_connections)"
    if wanted > most:
        fix = "set database.pool_size lower (--pool-size), or raise max_connections on the server"
        yield error("pool", f"{told}: some will be refused", fix)
    else:
        yield ok("pool", told)


def _tls(connection: Connection, plan: Plan) -> Iterator[Finding]:
    driver: Any = connection.connection.dbapi_connection
    if driver.unix_socket:
        yield ok("tls", "none, and the server is on this machine")
        return
    tls_version = connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_version'")).one()[1]
    if tls_version:
        yield ok("tls", tls_version)
        return
    report = error if plan.production else warning
    fix = "set ?sslmode=verify-full in the URL, and a certificate on the server; a Unix socket needs neither"
    yield report("tls", "none: data cross the network as they are", fix)
