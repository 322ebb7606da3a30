"""asyncpg, on the event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import URL

from conf import DatabaseSettings
from db.backend import Role
from db.backends.drivers.driver import PostgresDriver
from db.backends.drivers.notices import note, take

_SQLALCHEMYS = frozenset({"host", "port", "prepared_statement_cache_size"})
"""What of a URL's query SQLAlchemy reads itself."""


class Asyncpg(PostgresDriver):
    """https://magicstack.github.io/asyncpg/current/api/index.html#connection

    It speaks PostgreSQL's protocol by itself and reads libpq's parameters from a DSN: so the URL's query
    means the same for every driver. It sets no TCP keepalive.
    """

    is_async = True
    asks_whether_aborted = True
    takes_marker_with_commit = True
    placeholder = "$1"

    def engine_url(self) -> URL:
        return self.url.set(query={name: self.url.query[name] for name in _SQLALCHEMYS & {*self.url.query}})

    def connect_args(
        self, settings: DatabaseSettings, role: Role, *, server_settings: Mapping[str, str], given: str
    ) -> dict[str, Any]:
        query = {name: value for name, value in self.url.query.items() if name not in _SQLALCHEMYS}
        name = query.pop("application_name", settings.application_name)
        query.pop("options", None)
        timeout_s = float(str(query.pop("connect_timeout", settings.connect_timeout_s)))
        for known_to_libpq in ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"):
            query.pop(known_to_libpq, None)
        query.pop("tcp_user_timeout", None)
        wanted = str(query.pop("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS", "any")))
        if role == "reader" and wanted == "read-write":
            wanted = "primary"
        start_up = {"application_name": name, **server_settings}
        if given:
            start_up["options"] = given
        from db.backends.drivers.committing import CommittingConnection  # an extra

        arguments: dict[str, Any] = {
            "timeout": timeout_s,
            "target_session_attrs": wanted,
            "connection_class": CommittingConnection,
            "async_creator_fn": _connect,
        }
        arguments |= settings.connect_args
        arguments.pop("options", None)
        arguments["server_settings"] = start_up | settings.connect_args.get("server_settings", {})
        if query:
            arguments.setdefault("dsn", f"postgresql:///?{urlencode(query, doseq=True)}")
        return arguments

    def for_libpq(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name == "options"}  # all others are its own

    def behind_pooler(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = arguments["server_settings"]["application_name"]
        return arguments | {
            "server_settings": {"application_name": name},
            # A statement without a name lives until the next: nothing of it is left on the server.
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
        }

    def commit_with_marker(self, connection: Any, marker: str) -> None:
        connection.driver_connection.marker = marker
        connection.commit()

    def marker_was_refused(self, connection: Any) -> bool:
        return bool(connection.driver_connection.has_refused_marker)

    def watch_notices(self, connection: Any) -> None:
        own = connection.driver_connection
        take(id(own))  # of one that had the address before
        own.add_log_listener(_note)

    def marker_sql(self, template: str, *, table: str) -> str:
        return template.format(connection="$1", transaction="$2", table=table)

    def marker_parameters(self, connection: str, transaction: str) -> Any:
        return (connection, transaction)

    def connection_errors(self) -> tuple[type[Exception], ...]:
        return (OSError, TimeoutError)

    def field_of(self, error: Any, name: str) -> str | None:
        return getattr(error.__cause__, "data_type_name" if name == "datatype_name" else name, None)

    def has_stale_plan(self, error: Any) -> bool:
        return type(error).__name__ == "InvalidCachedStatementError"

    def is_idle(self, connection: Any) -> bool:
        own = connection.driver_connection
        return not (own.is_in_transaction() or own.is_closed())

    def is_aborted(self, connection: Any) -> bool | None:
        return None

    def parameter(self, connection: Any, name: str) -> str | None:
        return getattr(connection.driver_connection.get_settings(), name, None)

    def begins_read_only(self, connection: Any) -> None:
        connection.readonly = True

    def server_pid(self, connection: Any) -> int | None:
        own = connection.driver_connection
        return None if own.is_closed() else int(own.get_server_pid())

    def cancel_statement(self, connection: Any) -> None:
        """It has no call for it: it sends a cancel where the task that waits for it is cancelled."""

    def shutdown_socket(self, connection: Any) -> None:
        connection.driver_connection.terminate()


def _note(connection: Any, notice: Any) -> None:
    note(id(connection), getattr(notice, "server_source_function", None))


async def _connect(host: Any = None, port: Any = None, **arguments: Any) -> Any:
    """As asyncpg's ``connect``, with its time-out for each host, as libpq has it.

    asyncpg's own is for all hosts together: a first one that accepts connections and sends nothing, as a
    machine that hangs, is never left.
    """
    import asyncpg  # type: ignore[import-untyped,unused-ignore]

    if not isinstance(host, list):
        return await asyncpg.connect(host=host, port=port, **arguments)
    wanted = arguments.pop("target_session_attrs")
    # What is preferred is looked for among all hosts first.
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    attempts = [(attributes, *address) for attributes in rounds for address in zip(host, port, strict=True)]
    leaves = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
    for attributes, one, its_port in attempts:
        try:
            return await asyncpg.connect(
                host=one, port=its_port, target_session_attrs=attributes, **arguments
            )
        except leaves as error:
            failed = error
    raise failed
