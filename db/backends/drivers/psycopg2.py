"""psycopg2, which blocks the thread that waits for it."""

from __future__ import annotations

from typing import Any

from db.backends.drivers.driver import LibpqDriver, shut_down
from db.backends.drivers.libpq import cancel

_IDLE, _ABORTED = 0, 3  # psycopg2.extensions.TRANSACTION_STATUS_IDLE, …_INERROR

_CANCEL_TIMEOUT_S = 0.5


class Psycopg2(LibpqDriver):
    """https://www.psycopg.org/docs/connection.html"""

    takes_several_statements = True

    def is_idle(self, connection: Any) -> bool:
        return bool(connection.get_transaction_status() == _IDLE)

    def is_aborted(self, connection: Any) -> bool | None:
        return bool(connection.get_transaction_status() == _ABORTED)

    def parameter(self, connection: Any, name: str) -> str | None:
        value: str | None = connection.get_parameter_status(name)
        return value

    def begins_read_only(self, connection: Any) -> None:
        connection.readonly = True

    def server_pid(self, connection: Any) -> int | None:
        return None if connection.closed else int(connection.info.backend_pid)

    def cancel_statement(self, connection: Any) -> bool:
        return cancel(connection, timeout_s=_CANCEL_TIMEOUT_S)

    def shutdown_socket(self, connection: Any) -> None:
        shut_down(connection.fileno, connection.InterfaceError)
