"""An examination of a PostgreSQL server, of the way to it, and of what it grants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, bindparam, text

from conf import DatabaseSettings
from db.doctor.findings import Finding, Plan, clock, error, ok, version, warning
from db.doctor.topology import examine_standby
from db.schema.branches import branches

_OLDEST = 13  # pg_current_xact_id_if_assigned(), which the commit markers ask
_CROWDED = 0.8
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_VERIFIED = "verify-full"

_LOOK = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int AS version_number,
           current_setting('server_encoding') AS encoding,
           current_setting('max_connections')::int AS max_connections,
           current_setting('superuser_reserved_connections')::int
             + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
           pg_is_in_recovery() AS standby,
           current_setting('transaction_read_only') AS read_only,
           current_setting('statement_timeout') AS statement_timeout,
           clock_timestamp() AS now,
           current_user AS role,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,
           (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls,
           (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls_version,
           (SELECT count(*) FROM pg_stat_activity
             WHERE datname IS NOT NULL AND application_name NOT LIKE :ours || '%') AS others
""")


def examine(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at everything that can be asked of the reader's connection. Changes nothing."""
    found = connection.execute(_LOOK, {"ours": settings.application_name}).mappings().one()
    yield from _server(found)
    yield from _limiter(found, settings, plan)
    yield from _tls(connection, found, plan)
    yield from _limits(found, settings, plan)
    yield from _role(connection, found, settings, plan)


def examine_replica(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at the server that reads go to, where it is another one."""
    found = connection.execute(_LOOK, {"ours": settings.application_name}).mappings().one()
    if found["standby"]:
        yield from examine_standby(connection)
    else:
        fix = "name a standby of the database, or leave database.reader_url out"
        yield warning("replica", "it is no standby: nothing here tells whether it has the same rows", fix)
    if settings.write_token_key is None:
        fix = "set database.write_token_key, and let clients send the token (docs/distributed.md)"
        yield warning("tokens", "a client may not read there what it has just written: no tokens", fix)
    if found["read_only"] != "on":
        yield error("replica", "reads could write there", "let start-up options through to the server")
    reader = _readers(settings)
    others = [
        *_connections(found, settings, plan, reader, f"reader {reader}"),
        *_tls(connection, found, plan),
    ]
    for finding in others:
        if finding.level != "ok":
            yield dataclasses.replace(
                finding, subject="replica", message=f"{finding.subject}: {finding.message}"
            )


def _server(found: Any) -> Iterator[Finding]:
    is_too_old = found["version_number"] < _OLDEST * 10_000
    yield version("PostgreSQL", found["version"].partition(" ")[0], str(_OLDEST), is_too_old=is_too_old)
    if found["encoding"] != "UTF8":
        fix = "make the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        yield error("encoding", f"the database keeps text as {found['encoding']}", fix)
    if found["standby"]:
        fix = "name the primary, or several hosts and ?target_session_attrs=read-write"
        yield error("server", "it is a standby, which takes no writes", fix)
    yield from clock(found["now"])


def _limiter(found: Any, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """What the processes want of the database's own server at most."""
    writer = settings.pool_size + settings.max_overflow
    reader = _readers(settings) if settings.reader_url is None else 0  # else they go elsewhere
    commit_markers = 1 if settings.commit_witness else 0
    parts = {"writer": writer, "reader": reader, "commit markers": commit_markers}
    told = " + ".join(f"{name} {number}" for name, number in parts.items() if number)
    return _connections(found, settings, plan, sum(parts.values()), told)


def _readers(settings: DatabaseSettings) -> int:
    if settings.reader_pool_size is not None:
        return settings.reader_pool_size
    return settings.pool_size + settings.max_overflow


def _connections(
    found: Any, settings: DatabaseSettings, plan: Plan, of_each: int, parts: str
) -> Iterator[Finding]:
    """What the processes want at most, against what the server has for them.

    Args:
        of_each: connections that one process may open there.
        parts: what for.
    """
    wanted = of_each * plan.processes
    limits = {
        f"max_connections {found['max_connections']} less {found['reserved']} reserved": (
            found["max_connections"] - found["reserved"]
        ),
        f"the limit of the role {found['role']}": found["role_limit"],
        "the limit of the database": found["database_limit"],
    }
    which, most = min(
        ((name, limit) for name, limit in limits.items() if limit >= 0), key=lambda each: each[1]
    )
    count = "1 process" if plan.processes == 1 else f"{plan.processes} processes"
    if settings.pooler is not None:
        told = f"{wanted} connections at most ({parts}, {count}), to {settings.pooler}"
        yield ok("pool", f"{told}: its max_client_conn has to be as many, and is not to be seen from here")
        return
    told = f"{wanted} connections at most ({parts}, {count}) of {most} ({which})"
    commit_markers = 1 if settings.commit_witness else 0
    fits = max(1, (most // plan.processes - commit_markers) // 2)
    fix = f"set database.pool_size to {fits} or less (--pool-size), or raise the limit on the server"
    if wanted > most:
        yield error("pool", f"{told}: some will be refused", fix)
    elif wanted + found["others"] > most:
        yield warning("pool", f"{told}, and others hold {found['others']} at the moment", fix)
    elif wanted > most * _CROWDED:
        yield warning("pool", f"{told}: little is left for others, and for a rolling restart", fix)
    else:
        yield ok("pool", told)


def _tls(connection: Connection, found: Any, plan: Plan) -> Iterator[Finding]:
    parameters = connection.connection.dbapi_connection.info.dsn_parameters  # type: ignore[union-attr]
    host, mode = parameters.get("host", ""), parameters.get("sslmode", "prefer")
    near = host in _LOOPBACK or host.startswith(("/", "@")) or not host
    if found["tls"]:
        told = f"{found['tls_version']}, sslmode={mode}"
        if mode == _VERIFIED or not plan.production:
            yield ok("tls", told)
        else:
            fix = f"set ?sslmode={_VERIFIED} in the URL, and sslrootcert where the authority is your own"
            yield warning("tls", f"{told}: it does not verify which server answers", fix)
    elif near:
        yield ok("tls", "none, and the server is on this machine")
    else:
        fix = f"set ?sslmode={_VERIFIED} in the URL; ssl = on in the server's postgresql.conf"
        report = error if plan.production else warning
        yield report("tls", f"none: passwords and data cross the network as they are (sslmode={mode})", fix)


def _limits(found: Any, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Whether the limits that are asked for at the start of a connection are those in force."""
    limit_s = settings.statement_timeout_s
    if found["read_only"] != "on":
        fix = "set database.pooler (--database-pooler), or let the pooler pass start-up options on"
        yield error("reader", "the reader could write: its transactions are not read-only", fix)
    if limit_s is None:
        fix = "set database.statement_timeout_s (--statement-timeout-s 60)"
        yield warning("limits", "no statement has a time limit: scripts and jobs may run without end", fix)
    elif found["statement_timeout"] == "0":
        fix = "let the pooler pass start-up options on, or ALTER ROLE … SET statement_timeout"
        yield warning("limits", f"statement_timeout of {limit_s:g} s did not arrive at the server", fix)
    elif limit_s < plan.request_timeout_s:
        fix = f"set database.statement_timeout_s to {plan.request_timeout_s:g} or more"
        told = f"statement_timeout ({limit_s:g} s) ends statements before http.request_timeout_s does"
        yield warning("limits", f"{told} ({plan.request_timeout_s:g} s): 504 comes early", fix)
    else:
        idle_s = settings.idle_in_transaction_timeout_s
        told = f"statements {limit_s:g} s, idle in a transaction {f'{idle_s:g} s' if idle_s else 'no limit'}"
        yield ok("limits", told)


def _role(connection: Connection, found: Any, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    tables = [table.name for each in branches(tuple(settings.models)).values() for table in each.tables]
    refused = connection.execute(
        text("""
            SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
            WHERE relkind = 'r' AND pg_table_is_visible(oid)
              AND relname IN :tables
              AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                       AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
        """).bindparams(bindparam("tables", tables, expanding=True))
    ).scalar()
    if refused:
        fix = f'GRANT SELECT, INSERT, UPDATE, DELETE ON {refused} TO "{found["role"]}"'
        yield error("role", f"{found['role']} may not read and write {refused}", fix)
    elif found["superuser"] and plan.production:
        fix = "make a role that owns this database and nothing else: CREATE ROLE … LOGIN"
        yield warning("role", f"{found['role']} is a superuser, whom no limit and no right holds", fix)
    else:
        yield ok("role", f"{found['role']} may read and write the tables")


_OWN_TABLES = {
    "commit_witness": ("SELECT", "INSERT", "UPDATE"),
    "idempotency_keys": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""What a transaction writes of ours, as whatever role it has taken on by then."""

# A role is taken on to write with it: one that may write nothing at all is a group for something else.
_LOOK_AT_ROLES = text("""
    SELECT quote_ident(taken.rolname) AS role,
           quote_ident(n.nspname) AS schema,
           quote_ident(n.nspname) || '.' || quote_ident(own.relname) AS name,
           own.relname AS table,
           has_schema_privilege(taken.oid, n.oid, 'USAGE') AS finds,
           has_table_privilege(taken.oid, own.oid, 'SELECT') AS "SELECT",
           has_table_privilege(taken.oid, own.oid, 'INSERT') AS "INSERT",
           has_table_privilege(taken.oid, own.oid, 'UPDATE') AS "UPDATE",
           has_table_privilege(taken.oid, own.oid, 'DELETE') AS "DELETE"
    FROM pg_roles AS taken, pg_class AS own JOIN pg_namespace AS n ON n.oid = own.relnamespace
    WHERE own.oid IN (to_regclass('commit_witness'), to_regclass('idempotency_keys'))
      AND taken.rolname <> session_user AND taken.rolname NOT LIKE 'pg\\_%' AND NOT taken.rolsuper
      AND pg_has_role(session_user, taken.oid, 'MEMBER')
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
      AND EXISTS (SELECT FROM pg_class AS other JOIN pg_namespace AS m ON m.oid = other.relnamespace
                  WHERE other.relkind IN ('r', 'p') AND m.nspname NOT IN ('pg_catalog', 'information_schema')
                    AND has_table_privilege(taken.oid, other.oid, 'INSERT, UPDATE, DELETE'))
    ORDER BY 1, own.relname
""")
_NAMED_MAX = 8


def examine_roles(connection: Connection, settings: DatabaseSettings) -> Iterator[Finding]:
    """Whether roles that a transaction may take on (``SET LOCAL ROLE``) may write what it writes of ours."""
    rows = connection.execute(_LOOK_AT_ROLES).mappings().all()
    lacking = [
        (row, rights)
        for row in rows
        if settings.commit_witness or row["table"] != "commit_witness"
        if (rights := [right for right in _OWN_TABLES[row["table"]] if not row[right]]) or not row["finds"]
    ]
    if not lacking:
        return
    tables = sorted({row["name"] for row, rights in lacking})
    roles = list(dict.fromkeys(row["role"] for row, rights in lacking))
    named = granted = ", ".join(roles[:_NAMED_MAX])
    if len(roles) > _NAMED_MAX:
        named, granted = f"{named} and {len(roles) - _NAMED_MAX} more", f"{granted}, …"
    wanted = {right for _, rights in lacking for right in rights}
    rights = [right for right in _OWN_TABLES["idempotency_keys"] if right in wanted]
    fixes = [f"GRANT {', '.join(rights)} ON {', '.join(tables)} TO {granted}"] if rights else []
    schemas = sorted({row["schema"] for row, rights in lacking if not row["finds"]})
    fixes += [f"GRANT USAGE ON SCHEMA {schema} TO {granted}" for schema in schemas]
    told = f"{named} may not write {' and '.join(tables)}"
    yield warning("roles", f"{told}: what a transaction does as such a role is not kept", "; ".join(fixes))
