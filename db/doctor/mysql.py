"""An examination of a MySQL or MariaDB server, of the way to it, and of what it grants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from conf.database import PARTS
from db.backends.mysql import PORT, hosts_of, is_galera
from db.backends.refusals import words_of
from db.doctor.findings import Finding, Plan, clock, error, ok, version, warning
from db.engines.engine import make_engine, make_url

_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}  # the first with SKIP LOCKED

_QUORUM = 3
"""The fewest nodes of which one may die, and the rest is a majority."""

_BEHIND_S = 10

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
    status = _wsrep(connection)
    yield from _hosts(connection, settings)
    if status:
        yield from _galera(status)
    nodes = int(status.get("cluster_size", 1))
    if found["flush"] != 1 and nodes > 1:
        told = (
            f"innodb_flush_log_at_trx_commit = {found['flush']}, and {nodes} nodes have what is acknowledged"
        )
        yield ok(
            "durability", f"{told}: a node's crash loses nothing, one of all nodes at once the last second"
        )
    elif found["flush"] != 1:
        report = error if plan.production else warning
        fix = "set innodb_flush_log_at_trx_commit = 1 on the server"
        yield report("durability", "what was acknowledged may be lost when the server crashes", fix)
    elif status or settings.reader_url is None or _replica_acknowledges(connection):
        yield ok("durability", "what is acknowledged is on the server's disk")
    else:
        told = "what is acknowledged is on the server's disk, and reaches replicas later: it may be lost "
        fix = "set rpl_semi_sync_master_enabled (MySQL: …source_enabled) where a replica may take its place"
        yield warning("durability", f"{told}where one of them takes the server's place", fix)


def examine_replica(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at the server that reads go to, where it is another one."""
    status = _wsrep(connection)
    if status:
        yield from (dataclasses.replace(finding, subject="replica") for finding in _galera(status))
        return
    mariadb = "MariaDB" in connection.execute(_LOOK).mappings().one()["version"]
    try:
        rows = connection.exec_driver_sql(
            "SHOW SLAVE STATUS" if mariadb else "SHOW REPLICA STATUS"
        ).mappings()
    except DBAPIError:
        right = "REPLICA MONITOR" if mariadb else "REPLICATION CLIENT"
        yield warning("replica", "it answers; how far it is behind may not be seen", f"GRANT {right} ON *.*")
        return
    found = [
        {name.replace("Slave", "Replica").replace("Master", "Source"): value for name, value in row.items()}
        for row in rows
    ]
    if not found:
        fix = "name a replica of the database, or leave database.reader_url out"
        yield warning("replica", "it is no replica: nothing here tells whether it has the same rows", fix)
    for each in found:
        behind_s = each["Seconds_Behind_Source"]
        if behind_s is None or each["Replica_IO_Running"] != "Yes":
            why = "see Last_IO_Error and Last_SQL_Error in its SHOW REPLICA STATUS"
            yield error("replica", "replication does not run there: what it has grows old", why)
        elif behind_s > _BEHIND_S:
            fix = (
                "see what holds it up: long transactions of the primary, and too few threads that apply them"
            )
            yield warning("replica", f"a replica, {behind_s} s behind", fix)
        else:
            yield ok("replica", f"a replica, {behind_s} s behind")


def _wsrep(connection: Connection) -> dict[str, str]:
    """What a Galera node reports of its cluster; empty where the server is none."""
    if not is_galera(connection):
        return {}
    found = connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'wsrep_%%'")
    return {name.removeprefix("wsrep_"): value for name, value in found}


def _galera(status: Mapping[str, str]) -> Iterator[Finding]:
    size, part, state = (status[name] for name in ("cluster_size", "cluster_status", "local_state_comment"))
    told = f"{size} nodes, {part}, {state}, provider {status.get('provider_version', '?')}"
    if part != "Primary" or status["ready"] != "ON":
        fix = "start the other nodes; with a majority of them it takes work again"
        yield error("galera", f"{told}: the node is not ready", fix)
    elif state != "Synced":
        yield warning("galera", f"{told}: the node lags behind its cluster", "wait until it is Synced")
    elif int(size) < _QUORUM:
        fix = "add a node, or an arbitrator (garbd)"
        yield warning("galera", f"{told}: when a node dies, the rest has no majority, and takes no work", fix)
    else:
        yield ok("galera", told)


def _hosts(connection: Connection, settings: DatabaseSettings) -> Iterator[Finding]:
    """Each host of the URL, where there are several, asked over a connection of its own."""
    url = make_url(settings)
    hosts = hosts_of(url)
    if len(hosts) < 2:
        return
    for host, port in hosts:
        name = f"{host}:{port or PORT}"
        query = {"host": name, "target_session_attrs": "any"}
        own = url.set(host=None, port=None).update_query_dict(query).render_as_string(hide_password=False)
        alone = settings.model_copy(update={"url": SecretStr(own), **dict.fromkeys(PARTS)})
        engine = make_engine(alone, "reader")
        try:
            with engine.connect() as there:
                read_only = there.exec_driver_sql("SELECT @@read_only").scalar()
                status = _wsrep(there)
                role = f"a Galera node, {status['local_state_comment']}" if status else "a server"
                yield ok("host", f"{name} is {role}, {'read-only' if read_only else 'takes writes'}")
        except DBAPIError as fault:
            fix = "start it, or take it out of the URL: each new connection may try it"
            yield warning("host", f"{name} is of no use now: {words_of(fault)}", fix)
        finally:
            engine.dispose()


def _replica_acknowledges(connection: Connection) -> bool:
    """Whether COMMIT waits until a replica has it (semi-synchronous)."""
    rows = connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_%%'")
    status: dict[str, str] = dict(map(tuple, rows))
    return any(
        status.get(f"Rpl_semi_sync_{kind}_status") == "ON"
        and status.get(f"Rpl_semi_sync_{kind}_clients") != "0"
        for kind in ("master", "source")
    )


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
