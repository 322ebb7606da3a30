"""A server of two processes in which situations are made."""

from __future__ import annotations

import contextlib
import itertools
from http.client import HTTPConnection

from tests.fixtures.databases import RawSql
from tests.fixtures.process import ServerProcess, receive
from tests.situations import model
from tests.situations.carrier import Carrier

ARGUMENTS = ("--processes", "2", "--grace-s", "0", "--record-requests")

_AT_ONCE = 8
_ROUNDS_MAX = 20


class Prepared:
    """The server, and the service that it calls. Lives as long as a test; `opened` closes what it opens."""

    def __init__(self, server: ServerProcess, carrier: Carrier, opened: contextlib.ExitStack) -> None:
        self.server = server
        self.carrier = carrier
        self._opened = opened
        self._idle: dict[int, list[HTTPConnection]] = {0: [], 1: []}
        self._numbers = itertools.count(1)

    def send(
        self, method: str, path: str, *, process: int, body: str = "", request_id: str = ""
    ) -> HTTPConnection:
        """Send a request to one of the processes, and do not wait for its answer.

        Args:
            request_id: the server chooses one where it is empty.
        """
        connection = self._connection_to(process)
        headers = {"X-Request-Id": request_id} if request_id else {}
        connection.request(method, path, body, {**headers, "Content-Type": "application/json"})
        return connection

    def _connection_to(self, process: int) -> HTTPConnection:
        """One that is kept alive: the same process answers all that is sent over it."""
        for _ in range(_ROUNDS_MAX):
            if self._idle[process]:
                return self._idle[process].pop()
            for connection in [self._connect() for _ in range(_AT_ONCE)]:
                request_id = f"probe-{next(self._numbers)}"
                connection.request("GET", "/orders/60", headers={"X-Request-Id": request_id})
                receive(connection)
                [found] = self.server.request("GET", f"/-/requests/{request_id}.json").body["requests"]
                self._idle[found["process"]].append(connection)
        raise AssertionError(f"process {process} takes no connection")

    def _connect(self) -> HTTPConnection:
        return self._opened.enter_context(contextlib.closing(self.server.connect()))


def create_orders(sql: RawSql) -> None:
    """Make the tables, with their rows."""
    sql.run_each(model.statements(sql.backend))
