"""WebSockets whose unit of work is one message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal

from tornado.escape import json_encode, utf8
from tornado.iostream import IOStream
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from db import AsyncUnitOfWork, Database
from db.errors import ClientDisconnected, Unavailable, UsageError
from db.retry import reason_of
from db.written import Written
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem, leaves_unknown, problem_of, status_of
from handlers.lifecycle.http_transaction import DEFAULT_TIMEOUT_S
from handlers.lifecycle.message import MessageTransaction, current_message
from handlers.lifecycle.methods import TransactionMethods
from handlers.lifecycle.outcome import told
from handlers.lifecycle.retry import policy_of
from handlers.lifecycle.write_tokens import writes_to_see

log = logging.getLogger("onfinish.handlers")

GOING_AWAY = 1001
"""https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1"""


class SessionWebSocketHandler(TransactionMethods, ProblemHandler, WebSocketHandler):
    """A WebSocket on which each message owns one session and is one transaction.

    Lives as long as its connection, and holds a slot and a connection of the pool only while a message is
    handled, one after the other. An exception of `handle_message` rolls its work back and is answered with a
    problem, and the socket stays open. Nothing that is written meanwhile is sent before COMMIT, to this
    socket or, as in a chat, to others.

    ``open`` and ``on_close`` have no session: they use `database.unit_of_work`.

    The application's settings: as `SessionHandler`'s, and ``sockets`` (a `Sockets`), through which a stopping
    server closes them.
    """

    read_only: ClassVar[bool] = False
    """Messages use the reader, where the database refuses writes."""

    retry: ClassVar[bool] = True
    """A message that the database refuses as a conflict is retried from its start.

    On the same handler: attributes that `handle_message` has set are still set then.
    """

    retry_on: ClassVar[tuple[type[Exception], ...]] = ()
    """Further errors that are retried."""

    isolation: ClassVar[str | None] = None
    """The isolation level of each message's transaction. None: the engine's."""

    executor: ClassVar[Literal["threads"] | None] = None
    """Where plain functions run, see `SessionHandler`."""

    timeout_s: ClassVar[float | None] = None
    """A message's own deadline, in seconds from its arrival."""

    cancel_on_disconnect: ClassVar[bool | None] = None
    """Whether a client that disconnects cancels its message. None: reads are cancelled, writes are not."""

    _transaction: MessageTransaction | None = None
    _written: Sequence[Written] = ()
    _count = 0
    _is_closing = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.on_message is not SessionWebSocketHandler.on_message:
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__}.on_message() would have no session: "
                "name it `async def handle_message(self, message)`"
            )

    # -- what a handler is, and uses

    async def handle_message(self, message: str | bytes) -> None:
        """Handle a message, and reply with `write_message`. Each subclass implements it."""
        raise NotImplementedError(
            f"{type(self).__qualname__} has no `async def handle_message(self, message)`"
        )

    def write_message(
        self, message: bytes | str | dict[str, Any], binary: bool = False
    ) -> asyncio.Future[None]:
        """As Tornado's; while a message is handled it is held until its COMMIT, or dropped with its work.

        Returns:
            A future that resolves when it is written; for one that is held, at once.

        Raises:
            UsageError: called in a thread, which a plain function given to `on_commit` runs in.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                f"{type(self).__qualname__}.write_message() was called in a thread, where it would not wake "
                "the event loop: make the function that is given to on_commit() an `async def`"
            ) from None
        content = utf8(json_encode(message) if isinstance(message, dict) else message)
        current = current_message.get()
        if current is None or not current.holds:
            return super().write_message(content, binary)
        # Encoded now, so that an encoding error occurs before the COMMIT.
        current.hold(partial(super().write_message, content, binary))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """As Tornado's; while a message is handled it is held, as its replies are."""
        current = current_message.get()
        if current is None or not current.holds:
            super().close(code, reason)
        else:
            current.hold_close(partial(super().close, code, reason))

    def go_away(self) -> None:
        """Close because the server stops: at once, or when the message under way has been answered."""
        self._is_closing = True
        if self._transaction is None:
            super().close(GOING_AWAY, "the service is shutting down")

    @property
    def wrote(self) -> str | None:
        """The token of what the message under way has committed, in a function of `on_commit`; else None.

        For the client, which sends it along with reads over HTTP (``Read-After``). None without
        ``database.write_token_key``.
        """
        written = None if self._transaction is None else self._transaction.unit.written
        tokens = self._database.write_tokens
        return None if written is None or tokens is None else tokens.token_of(written)

    @property
    def lost_write(self) -> bool:
        """Whether a write that the message was to see is lost, by a failover; known after its first `run`."""
        return self._begun().unit.lost_write

    # -- Tornado's hooks

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """The handshake; returns when the connection ends."""
        if self.settings.get("draining"):
            raise Unavailable("the service is shutting down", retry_after_s=5)
        database: Database | None = self.settings.get("database")
        if database is not None and database.write_tokens is not None:
            self._written = writes_to_see(self.request, self.settings, database.write_tokens)
        sockets: Sockets | None = self.settings.get("sockets")
        if sockets is None:
            await super().get(*args, **kwargs)
            return
        sockets.add(self)
        try:
            await super().get(*args, **kwargs)
        finally:
            sockets.discard(self)

    def check_origin(self, origin: str) -> bool:
        """Whether a page may open a socket here: pages of this origin, and of those that may write here.

        Raises:
            Problem: 403 with a detail, which Tornado's own response lacks.
        """
        if super().check_origin(origin) or origin in self.settings.get("trusted_origins", ()):
            return True
        raise Problem(403, "pages of another origin may not open a socket here")

    def detach(self) -> IOStream:
        """As Tornado's, at the end of the handshake; a closed connection is detected from then on.

        Tornado itself would detect it at the next message, when this one is done.
        """
        stream = super().detach()
        stream.set_close_callback(self._on_stream_closed)
        return stream

    async def on_message(self, message: str | bytes) -> None:
        """Handle a message; Tornado reads the next one when this has returned."""
        if self._goes_away():
            return
        self._count += 1
        summary = f"message {self._count} {type(self).__name__} [{self.request_id}]"
        timeout_s = self.timeout_s or self.settings.get("request_timeout_s", DEFAULT_TIMEOUT_S)
        deadline_at = time.monotonic() + timeout_s
        attempt = 1
        while True:
            transaction = self._begin(deadline_at, summary, attempt)
            try:
                error = await transaction.handle(partial(self._handle, message))
            finally:
                self._transaction = None
            if transaction.conflict is None:
                break
            reason, attempt = reason_of(transaction.conflict), attempt + 1
            log.info("%s: retrying (%s), attempt %d", summary, reason, attempt)
            self._database.observer.retries(reason)
            await transaction.pause()
        self._keep_written(transaction.unit)
        if error is not None:
            self._send_problem(
                error, told(transaction.outcome), summary, lost_write=transaction.unit.lost_write
            )
        if self._goes_away():
            self.go_away()

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As `ProblemHandler`'s; a handler that a stopping server has cancelled is not logged."""
        if not isinstance(value, asyncio.CancelledError):
            super().log_exception(typ, value, tb)

    def _on_stream_closed(self) -> None:
        """The client has disconnected: a read is cancelled, a write completes; see `cancel_on_disconnect`."""
        cancels = self.read_only if self.cancel_on_disconnect is None else self.cancel_on_disconnect
        if cancels and self._transaction is not None:
            self._transaction.cancel(ClientDisconnected())

    # -- the life of a message

    async def _handle(self, message: str | bytes) -> None:
        await self.handle_message(message)

    def _begin(self, deadline_at: float, summary: str, attempt: int) -> MessageTransaction:
        def new_unit(database: Database, isolation: str | None = None) -> AsyncUnitOfWork:
            return database.unit_of_work(
                label=f"message {type(self).__name__}",
                read_only=self.read_only,
                isolation=isolation,
                deadline_at=deadline_at,
                origin=self.request,
                retries=self.retry,
                executor=self.executor,
                read_after=self._written if database is self._database else (),
            )

        self._transaction = MessageTransaction(
            self._database,
            new_unit,
            isolation=self.isolation,
            summary=summary,
            settings=self.settings,
            policy=partial(policy_of, self._database.retry_policy, self.settings, self.retry_on),
            log_error=self._log_error,
            attempt=attempt,
            may_retry=self.retry,
        )
        return self._transaction

    def _send_problem(self, error: BaseException, outcome: str, summary: str, *, lost_write: bool) -> None:
        self._log_error(summary, error)
        if isinstance(error, ClientDisconnected):
            return
        status = status_of(error)
        problem = problem_of(error, status)
        problem.status_code = status
        if leaves_unknown(error):
            outcome = "unknown"
        body: dict[str, Any] = {**self._body_of(problem, error, outcome)}
        if lost_write:  # what the handler would have told is dropped
            body["write_lost"] = True
        with contextlib.suppress(WebSocketClosedError):
            self.write_message(body)

    def _keep_written(self, unit: AsyncUnitOfWork) -> None:
        """The messages that follow see what this one has written."""
        if unit.written is not None:
            self._written = (unit.written,)
        elif unit.lost_write:
            self._written = ()

    def _goes_away(self) -> bool:
        return self._is_closing

    def _begun(self) -> MessageTransaction:
        if self._transaction is None:
            raise UsageError(
                f"{type(self).__name__}: a socket has a session only while a message is handled; "
                "`async with self.settings['database'].unit_of_work()` has one of its own"
            )
        return self._transaction

    @property
    def _database(self) -> Database:
        self.require_setting("database", "sessions")
        database: Database = self.settings["database"]
        return database


class Sockets:
    """The open sockets of an application. Lives as long as that, in its settings."""

    def __init__(self) -> None:
        self._open: set[SessionWebSocketHandler] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, handler: SessionWebSocketHandler) -> None:
        """A handshake has begun."""
        self._open.add(handler)

    def discard(self, handler: SessionWebSocketHandler) -> None:
        """A connection has ended."""
        self._open.discard(handler)

    def go_away(self) -> None:
        """Close all of them with 1001, each when the message under way has been answered."""
        for handler in list(self._open):
            handler.go_away()
