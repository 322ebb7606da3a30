"""psycopg 3, on the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from sqlalchemy import URL

from db.backends.drivers.driver import LibpqDriver, shut_down
from db.backends.drivers.notices import note, take

_IDLE, _ABORTED = 0, 3  # libpq's PGTransactionStatusType
_CANCEL_TIMEOUT_S = 0.5


class Psycopg(LibpqDriver):
    """https://www.psycopg.org/psycopg3/docs/api/connections.html#psycopg.AsyncConnection"""

    is_async = True
    settles_without_waiting = False  # its rollback is awaited, whether or not it sends anything

    def engine_url(self) -> URL:
        return self.url.set(drivername="postgresql+psycopg_async")

    def for_libpq(self, given: Mapping[str, Any]) -> dict[str, Any]:
        own = {"prepare_threshold", "row_factory", "cursor_factory", "context", "autocommit"}
        return {name: value for name, value in given.items() if name not in own}

    def behind_pooler(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return super().behind_pooler(arguments) | {"prepare_threshold": None}

    def has_stale_plan(self, error: Any) -> bool:
        # The server's own name for the place, the same in every language: the code stands for much else.
        return getattr(getattr(error, "diag", None), "source_function", None) == "RevalidateCachedQuery"

    def watch_notices(self, connection: Any) -> None:
        address = self._address(connection)
        take(address)  # of one that had the address before
        connection.driver_connection.add_notice_handler(
            lambda notice: note(address, notice.source_function)  # without the connection: no circle
        )

    def is_idle(self, connection: Any) -> bool:
        return bool(connection.driver_connection.pgconn.transaction_status == _IDLE)

    def is_aborted(self, connection: Any) -> bool | None:
        return bool(connection.driver_connection.pgconn.transaction_status == _ABORTED)

    def parameter(self, connection: Any, name: str) -> str | None:
        value: bytes | None = connection.driver_connection.pgconn.parameter_status(name.encode())
        return None if value is None else value.decode()

    def begins_read_only(self, connection: Any) -> None:
        connection.set_read_only(True)

    def server_pid(self, connection: Any) -> int | None:
        own = connection.driver_connection
        return None if own.closed else int(own.pgconn.backend_pid)

    def cancel_statement(self, connection: Any) -> Awaitable[bool]:
        return _cancel(connection.driver_connection)

    def shutdown_socket(self, connection: Any) -> None:
        own = connection.driver_connection
        shut_down(own.fileno, connection.dbapi.Error)


async def _cancel(connection: Any) -> bool:
    try:
        await connection.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
    except Exception:  # noqa: BLE001  # whatever it is, the server has not heard of it
        return False
    return True
