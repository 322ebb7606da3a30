"""psycopg2, which blocks the thread that waits for it; or on the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from sqlalchemy import URL
from sqlalchemy.dialects import registry

from conf import DatabaseSettings
from db.backend import Role
from db.backends.drivers.driver import LibpqDriver, shut_down
from db.backends.drivers.libpq import cancel, cancel_on_loop

_IDLE, _ABORTED = 0, 3  # psycopg2.extensions.TRANSACTION_STATUS_IDLE, …_INERROR

_WRITES = ("INSERT ", "UPDATE ", "DELETE ", "MERGE ")
"""The tags of statements that report the rows that they wrote."""

_CANCEL_TIMEOUT_S = 0.5

_ON_LOOP = "postgresql+onfinish_psycopg2"
"""The name under which SQLAlchemy finds the dialect."""


class Psycopg2(LibpqDriver):
    """https://www.psycopg.org/docs/connection.html"""

    takes_several_statements = True
    takes_marker_with_commit = True

    def connect_args(
        self, settings: DatabaseSettings, role: Role, *, server_settings: Mapping[str, str], given: str
    ) -> dict[str, Any]:
        from psycopg2.extensions import connection

        from db.backends.drivers.transactions import derived

        arguments = super().connect_args(settings, role, server_settings=server_settings, given=given)
        factory = arguments.get("connection_factory", connection)
        return arguments | {"connection_factory": derived(self._connection_class(), factory)}

    def _connection_class(self) -> Any:
        from db.backends.drivers.transactions import BlockingConnection

        return BlockingConnection

    def commit_with_marker(self, connection: Any, marker: str) -> None:
        connection.commit(marker)

    def marker_was_refused(self, connection: Any) -> bool:
        return bool(connection.get_transaction_status() == _ABORTED)

    def _address(self, connection: Any) -> int:
        address: int = connection.pgconn_ptr
        return address

    def has_written(self, context: Any) -> bool:
        cursor = context.cursor
        return bool(cursor.rowcount > 0 and cursor.statusmessage.startswith(_WRITES))

    def is_idle(self, connection: Any) -> bool:
        return bool(connection.get_transaction_status() == _IDLE)

    def is_aborted(self, connection: Any) -> bool | None:
        return bool(connection.has_failed or connection.get_transaction_status() == _ABORTED)

    def parameter(self, connection: Any, name: str) -> str | None:
        value: str | None = connection.get_parameter_status(name)
        return value

    def begins_read_only(self, connection: Any) -> None:
        connection.readonly = True

    def server_pid(self, connection: Any) -> int | None:
        return None if connection.closed else int(connection.info.backend_pid)

    def cancel_statement(self, connection: Any) -> bool | Awaitable[bool]:
        return cancel(connection, timeout_s=_CANCEL_TIMEOUT_S)

    def shutdown_socket(self, connection: Any) -> None:
        shut_down(connection.fileno, connection.InterfaceError)


class Psycopg2OnLoop(Psycopg2):
    """The same driver's asynchronous connections, see `db.backends.drivers.on_loop`."""

    is_async = True

    def engine_url(self) -> URL:
        registry.register(_ON_LOOP.replace("+", "."), f"{__package__}.on_loop", "LoopDialect")
        return self.url.set(drivername=_ON_LOOP)

    def _connection_class(self) -> Any:
        from db.backends.drivers.on_loop import LoopConnection

        return LoopConnection

    def cancel_statement(self, connection: Any) -> Awaitable[bool]:
        return cancel_on_loop(connection, timeout_s=_CANCEL_TIMEOUT_S)
