"""psycopg2's asynchronous connections, in greenlets of the event loop: only the greenlet waits.

Not by psycopg2's wait callback, which is the whole process': with one set, COPY and large objects are refused
in every other part of the program that uses psycopg2, a connect has no time-out any more, and looks its host
up with the interpreter's lock. An asynchronous connection has no transactions; these begin and end them as
others do.
https://www.psycopg.org/docs/advanced.html#asynchronous-support
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

import psycopg2
from psycopg2 import extensions
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.util.concurrency import await_

from db.backends.drivers.descriptors import ready
from db.backends.drivers.hosts import Parameters, each_address, each_host
from db.backends.drivers.transactions import TransactionConnection

_OK, _READ, _WRITE = extensions.POLL_OK, extensions.POLL_READ, extensions.POLL_WRITE


class LoopConnection(TransactionConnection):
    """A connection for one event loop. Lives until it is closed, by its pool; made by `connect`.

    While it is open the loop watches its socket, so a wait costs no call of the kernel beside the read.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _waiter: asyncio.Future[None] | None = None
    _watched: int | None = None
    _writes = False

    def begin_by_itself(self, what: str) -> NoReturn:
        """Not here."""
        raise psycopg2.NotSupportedError(
            f'{what} works in a thread only: set database.executor = "threads"; scripts and '
            "`session_scope()` are in threads already"
        )

    def lobject(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here."""
        self.begin_by_itself("a large object")

    # -- waiting

    def wait(self) -> None:
        """Wait in a greenlet for what was sent. Where that is interrupted the connection is closed."""
        in_thread = asyncio._get_running_loop() is None
        if in_thread and self._watched is not None:  # a thread may end the connection, and not its watch
            await_(self._unwatched())
        try:
            state = self.poll()
        except BaseException:
            self._drop_if_closed()
            raise
        if state == _OK:
            return
        try:
            # In a thread nothing of the loop may be touched: what is awaited goes there, and waits there.
            await_(self._answer_there(state) if in_thread else self._answer(state))
        except psycopg2.Error:
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None

    def _answer(self, state: int) -> asyncio.Future[None]:
        """What is resolved when the answer has come. Called on the loop."""
        loop = self._loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        if self._watched is None:
            self._watched = self.fileno()
            loop.add_reader(self._watched, self._step)
        if state == _WRITE:
            self._watch_writing(loop)
        return waiter

    async def _answer_there(self, state: int) -> None:
        try:
            await self._answer(state)
        finally:
            self._unwatch()

    async def _unwatched(self) -> None:
        self._unwatch()

    def _step(self) -> None:
        """The socket can be read from, or written to."""
        waiter, loop = self._waiter, self._loop
        if waiter is None or waiter.done() or loop is None:
            self._unwatch()  # the server ends it, or has sent a notice: the next statement meets it
            return
        try:
            state = self.poll()
        except BaseException as error:  # noqa: BLE001  # it belongs to the waiter
            self._drop_if_closed()
            waiter.set_exception(error)
            return
        if self._writes and state != _WRITE and self._watched is not None:
            loop.remove_writer(self._watched)
            self._writes = False
        if state == _OK:
            waiter.set_result(None)
        elif state == _WRITE:
            self._watch_writing(loop)

    def _watch_writing(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._writes and self._watched is not None:
            self._writes = True
            loop.add_writer(self._watched, self._step)

    def _drop_if_closed(self) -> None:
        if self.closed or self.get_transaction_status() == extensions.TRANSACTION_STATUS_UNKNOWN:
            self._unwatch()  # before another has the number of its descriptor, which libpq has closed

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(watched)
            if self._writes:
                self._loop.remove_writer(watched)
        self._writes = False

    def close(self) -> None:
        """As psycopg2's. From another thread, which is the collector's: on the loop, and soon."""
        loop = self._loop
        is_used = self._watched is not None and loop is not None and loop.is_running()
        if is_used and asyncio._get_running_loop() is not loop:
            loop.call_soon_threadsafe(self.close)  # type: ignore[union-attr]
            return
        self._unwatch()
        super().close()


async def connect(
    dsn: str | None = None,
    *,
    connection_factory: type[LoopConnection] = LoopConnection,
    cursor_factory: Any = None,
    **parameters: Any,
) -> LoopConnection:
    """Connect on the event loop, to the first host that answers, with a time-out for each of its addresses.

    Takes what `psycopg2.connect` does. Names are looked up in a thread.

    Raises:
        psycopg2.OperationalError: none of them can be had.
    """
    given: Parameters = extensions.parse_dsn(extensions.make_dsn(dsn, **parameters))
    passes: list[Parameters] = [{}]
    if given.get("target_session_attrs") == "prefer-standby":
        passes = [{"target_session_attrs": "standby"}, {"target_session_attrs": "any"}]
    timeout_s = float(given.get("connect_timeout", 0))
    faults: list[str] = []
    for wanted in passes:
        for host in each_host(given):
            try:
                async with asyncio.timeout(timeout_s if timeout_s > 0 else None):
                    addresses = await each_address(host)
            except OSError as error:  # TimeoutError is one
                why = str(error) or "timeout expired"
                faults.append(f"could not translate host name to address: {why}\n")
                continue
            for address in addresses:
                try:
                    connection = await _connect(address | wanted, connection_factory, timeout_s)
                except psycopg2.OperationalError as error:
                    faults.append(_named(str(error), address))
                    continue
                if cursor_factory is not None:
                    connection.cursor_factory = cursor_factory
                return connection
    raise psycopg2.OperationalError("".join(faults))


def _named(fault: str, address: Parameters) -> str:
    """A fault with where it came from, which libpq says of a connection that it makes by itself."""
    if fault.startswith("connection to server"):
        return fault
    at = address.get("hostaddr") or address.get("host") or "localhost"
    return f'connection to server at "{at}", port {address.get("port", 5432)} failed: {fault}'


async def _connect(
    parameters: Mapping[str, str], factory: type[LoopConnection], timeout_s: float
) -> LoopConnection:
    dsn = extensions.make_dsn(**parameters)
    connection: LoopConnection = psycopg2.connect(dsn, connection_factory=factory, async_=True)
    try:
        async with asyncio.timeout(timeout_s if timeout_s > 0 else None):
            while (state := connection.poll()) != _OK:
                await ready(connection.fileno(), for_writing=state == _WRITE)
    except TimeoutError:
        connection.close()
        raise psycopg2.OperationalError("timeout expired\n") from None
    except BaseException:
        connection.close()
        raise
    return connection


class LoopDialect(PGDialect_psycopg2):
    """SQLAlchemy's psycopg2, on such connections. Lives as long as its engine."""

    is_async = True
    has_terminate = True
    supports_statement_cache = True

    def connect(self, *arguments: Any, **parameters: Any) -> Any:
        """Connect, inside of a greenlet."""
        return await_(connect(*arguments, **parameters))

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close it, wherever that is: nothing is waited for."""
        dbapi_connection.close()
