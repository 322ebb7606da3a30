"""An examination of a MySQL or MariaDB server, of the way to it, and of what it grants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from conf import DatabaseSettings
from db.doctor.findings import Finding, Plan, error, ok, warning

_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}  # the first with SKIP LOCKED
_CLOCKS_APART_S = 5

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
    version = found["version"].partition("-")[0]
    oldest = _OLDEST[name]
    if tuple(map(int, version.split(".")[:2])) < oldest:
        fix = f"upgrade the server: {'.'.join(map(str, oldest))} is the oldest that is supported here"
        yield error("server", f"{name} {version}", fix)
    else:
        yield ok("server", f"{name} {version}")
    if found["read_only"]:
        yield error("server", "it is read-only, as replicas are", "name the primary")
    apart_s = abs((datetime.now(UTC) - found["now"].replace(tzinfo=UTC)).total_seconds())
    if apart_s > _CLOCKS_APART_S:
        fix = "let both keep their time by NTP"
        yield warning("clock", f"the server's clock and this machine's are {apart_s:.0f} s apart", fix)


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
    version = connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_version'")).one()[1]
    if version:
        yield ok("tls", version)
        return
    report = error if plan.production else warning
    fix = "set ?sslmode=verify-full in the URL, and a certificate on the server; a Unix socket needs neither"
    yield report("tls", "none: data cross the network as they are", fix)
