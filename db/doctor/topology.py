"""The servers of a PostgreSQL cluster: which is what, and what is lost when one of them dies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from db.backends.choose import backend_for
from db.backends.drivers.hosts import each_host
from db.backends.refusals import words_of
from db.doctor.findings import Finding, Plan, error, ok, warning
from db.engines.engine import make_engine, make_url

_BEHIND_S = 10.0
_PLACE = ("host", "hostaddr", "port", "target_session_attrs")
_CONFIRMED_BY = {"remote_write": "in a standby's memory", "remote_apply": "applied at a standby"}

_LOOK = text("""
    SELECT pg_is_in_recovery() AS standby,
           current_setting('fsync') AS fsync,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS names,
           host(inet_server_addr()) AS address,
           inet_server_port() AS port,
           pg_backend_pid() AS pid
""")

# A role without pg_read_all_stats sees that they are there, and NULL for all else.
_LOOK_AT_STANDBYS = text("""
    SELECT application_name AS name, sync_state, state,
           coalesce(extract(epoch FROM replay_lag), 0)::float AS behind_s,
           pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) AS behind_bytes
    FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY 1
""")

_LOOK_AT_REPLICA = text("""
    SELECT EXISTS (SELECT FROM pg_stat_wal_receiver) AS streams,
           coalesce(pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn(), false) AS all_applied,
           coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float
             AS age_s,
           current_setting('hot_standby_feedback') AS feedback,
           current_setting('max_standby_streaming_delay') AS delay
""")


def examine_topology(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at the server that the connection leads to, at its standbys, and at the URL's other hosts."""
    found = connection.execute(_LOOK).mappings().one()
    standbys = [] if found["standby"] else connection.execute(_LOOK_AT_STANDBYS).mappings().all()
    hosts = hosts_of(make_url(settings))
    yield from _between(connection, found, settings)
    yield from _hosts(hosts, settings)
    yield from _standbys(standbys)
    has_standbys = bool(standbys or len(hosts) > 1 or settings.reader_url is not None)
    yield from _durability(found, plan, standbys, has_standbys=has_standbys)


def examine_standby(connection: Connection) -> Iterator[Finding]:
    """How far behind the standby is that a connection leads to, and what becomes of long reads there."""
    found = connection.execute(_LOOK_AT_REPLICA).mappings().one()
    behind_s = 0.0 if found["all_applied"] else found["age_s"]
    if not found["streams"]:  # all that it has received may be applied, and be old
        fix = (
            "see in its log why it has no connection to the primary; from an archive alone it is always late"
        )
        told = f"a standby to which nothing is streamed; its last change is {found['age_s']:.0f} s old"
        yield warning("replica", told, fix)
    elif behind_s > _BEHIND_S:
        fix = "see what holds it up: pg_stat_replication on the primary, and long reads on the replica"
        yield warning("replica", f"a standby, {behind_s:.0f} s behind", fix)
    else:
        yield ok("replica", f"a standby, {behind_s:.1f} s behind")
    if found["feedback"] != "on":
        fix = "set hot_standby_feedback = on there, or a larger max_standby_streaming_delay"
        told = f"long reads are cancelled there after {found['delay']} (max_standby_streaming_delay)"
        yield warning("replica", told, fix)


def hosts_of(url: URL) -> list[tuple[str, int]]:
    """The hosts that a URL names, with their ports; none where it leaves that to libpq."""
    _, arguments = url.get_dialect()().create_connect_args(url)
    given = {name: str(arguments[name]) for name in ("host", "port") if arguments.get(name)}
    return [(one["host"], int(one.get("port") or 5432)) for one in each_host(given) if "host" in one]


def _hosts(hosts: list[tuple[str, int]], settings: DatabaseSettings) -> Iterator[Finding]:
    """Each host by itself, where the URL names several."""
    if len(hosts) < 2:
        return
    primaries = []
    for host, port in hosts:
        name = f"{host}:{port}"
        try:
            is_primary, findings = _ask_one(host, port, settings)
        except DBAPIError as fault:
            fix = "is it running, and does it take connections from here?"
            yield warning("host", f"{name} does not answer: {words_of(fault)}", fix)
            continue
        primaries += [name] * is_primary
        for finding in findings:
            yield dataclasses.replace(finding, subject="host", message=f"{name}: {finding.message}")
    if len(primaries) > 1:
        fix = "stop the one that your cluster manager does not lead: what is written there is lost"
        yield error("hosts", f"{' and '.join(primaries)} take writes both", fix)
    elif not primaries:
        yield error("hosts", "none of them takes writes", "see why the cluster manager has no leader")
    wanted = settings.connect_args.get("target_session_attrs")
    if not (wanted or make_url(settings).query.get("target_session_attrs")):
        fix = "add ?target_session_attrs=read-write to the URL"
        yield error("hosts", "writes go to the first that answers, which may be a standby", fix)


def _ask_one(host: str, port: int, settings: DatabaseSettings) -> tuple[bool, list[Finding]]:
    """Whether a host takes writes, and what there is to report of it."""
    url = make_url(settings).difference_update_query(_PLACE).set(host=host, port=port)
    alone = settings.model_copy(
        update={
            "url": SecretStr(url.render_as_string(hide_password=False)),
            **dict.fromkeys(("drivername", "username", "password", "host", "port", "database")),
            "query": {name: value for name, value in settings.query.items() if name not in _PLACE},
            "connect_args": {
                name: value for name, value in settings.connect_args.items() if name not in _PLACE
            },
        }
    )
    engine = make_engine(alone, "reader", backend_for(url, settings.pooler))
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one():
                return False, list(examine_standby(connection))
            return True, [ok("host", "the primary")]
    finally:
        engine.dispose()


def _between(connection: Connection, found: Any, settings: DatabaseSettings) -> Iterator[Finding]:
    """What stands between, as far as the two ends of the connection differ."""
    info: Any = connection.connection.dbapi_connection.info  # type: ignore[union-attr]
    if info.backend_pid != found["pid"]:
        told = "a pooler: the id of its session is not the server's"
        if settings.pooler is not None:
            yield ok("between", told)
        else:
            yield warning(
                "between", told, "set database.pooler (--database-pooler) where it pools transactions"
            )
    elif found["port"] is not None and info.port != found["port"]:
        yield ok(
            "between",
            f"port {info.port} leads to port {found['port']} of {found['address']}: a proxy, whose health "
            "check decides which server is written to",
        )


def _standbys(standbys: Any) -> Iterator[Finding]:
    hidden = [one for one in standbys if one["state"] is None]
    if hidden:
        told = f"{len(hidden)} connected; which, and how far behind, is shown to pg_read_all_stats alone"
        yield ok("standbys", told)
    for one in standbys:
        if one["state"] is None:
            continue
        behind = f"{one['behind_s']:.1f} s and {one['behind_bytes'] or 0} bytes behind"
        told = f"{one['name'] or 'without a name'}: {one['sync_state']}, {one['state']}, {behind}"
        if one["state"] == "streaming" and one["behind_s"] <= _BEHIND_S:
            yield ok("standbys", told)
        else:
            yield warning("standbys", told, "see in its log what holds it up")


def _durability(found: Any, plan: Plan, standbys: Any, *, has_standbys: bool) -> Iterator[Finding]:
    level, names = found["synchronous_commit"], found["names"]
    off = [name for name in ("fsync", "synchronous_commit") if found[name] == "off"]
    if off:
        report = error if plan.production and "fsync" in off else warning
        fix = f"set {' and '.join(f'{name} = on' for name in off)} on the server"
        told = f"{' and '.join(off)} off: what was acknowledged may be lost when the server crashes"
        yield report("durability", told, fix)
    elif not names and has_standbys:
        fix = "synchronous_mode in Patroni's configuration, or synchronous_standby_names on the server"
        told = "asynchronous: acknowledged writes may be lost when the primary dies and a standby takes over"
        yield warning("durability", told, fix)
    elif not names or found["standby"]:
        yield ok("durability", "what is acknowledged is on the server's disk")
    elif level == "local":
        fix = "set synchronous_commit = on on the server"
        told = f"synchronous_commit = local: no standby is waited for, although {names} is to confirm"
        yield warning("durability", told, fix)
    elif not any(one["state"] is None or one["sync_state"] in ("sync", "quorum") for one in standbys):
        fix = "start a standby; with Patroni's synchronous_mode_strict off the primary goes on without one"
        told = f"no COMMIT succeeds: no standby is connected of those that are to confirm it ({names})"
        yield error("durability", told, fix)
    else:
        where = _CONFIRMED_BY.get(level, "on a standby's disk")
        yield ok("durability", f"synchronous: what is acknowledged is {where} too ({names})")
