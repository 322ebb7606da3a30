"""One attempt at a message of a WebSocket, and what is held back until its work is committed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from tornado.websocket import WebSocketClosedError

from db import AsyncUnitOfWork, Database
from db.errors import Cancelled, DeadlinePassed, UsageError
from db.retry import RetryPolicy
from handlers.lifecycle.errors import leaves_unknown, meant
from handlers.lifecycle.hooks import is_being_cancelled
from handlers.lifecycle.request_transaction import RequestTransaction


class MessageTransaction(RequestTransaction):
    """One attempt at one message. Lives until its unit of work is settled.

    Replies that are written meanwhile in its context, to its own socket or to others, are held until then.
    """

    summary = ""
    settings: Mapping[str, Any] = {}

    def __init__(
        self,
        database: Database,
        new_unit: Callable[..., AsyncUnitOfWork],
        *,
        isolation: str | None,
        summary: str,
        settings: Mapping[str, Any],
        policy: Callable[[], RetryPolicy],
        log_error: Callable[[str, BaseException], object],
        **options: Any,
    ) -> None:
        super().__init__(database, new_unit(database, isolation=isolation), **options)
        self.summary = summary
        self.settings = settings
        self._new_unit = new_unit
        self._policy = policy
        self._log_error = log_error
        self.holds = True
        self._replies: list[Callable[[], object]] = []
        self._closes: list[Callable[[], object]] = []

    @property
    def policy(self) -> RetryPolicy:
        """The database's, with the errors that the application and the handler add."""
        return self._policy()

    def new_unit(self, database: Database) -> AsyncUnitOfWork:
        """A unit of work at another database, with the deadline of this one."""
        return self._new_unit(database)

    def log_raised(self, error: BaseException) -> None:
        """Log an error that was raised by the handler and is not the one that is answered."""
        self._log_error(self.summary, error)

    def hold(self, reply: Callable[[], object]) -> None:
        """Hold a reply."""
        self._replies.append(reply)

    def hold_close(self, close: Callable[[], object]) -> None:
        """Hold the closing of a socket, until all replies have been written."""
        self._closes.append(close)

    async def handle(self, handling: Callable[[], Awaitable[None]]) -> BaseException | None:
        """Handle the message, and commit or roll back. Returns the error that answers it, if any."""
        loop, deadline_at = asyncio.get_running_loop(), self.unit.deadline_at
        timer = None
        if deadline_at is not None:
            timer = loop.call_later(deadline_at - time.monotonic(), self.deadline_passed)
        try:
            await self._call(handling)
            return await self._end(keep=not self.failed)
        finally:
            if timer is not None:
                timer.cancel()

    async def _call(self, handling: Callable[[], Awaitable[None]]) -> None:
        """Call the handler, and record what it raises; what ends its task, or the process, is raised on."""
        token = current_message.set(self)
        try:
            await self._in_time(handling)
        except Exception as error:  # noqa: BLE001  # any error is answered
            self.fail(error)
        except (SystemExit, KeyboardInterrupt):  # as signal handlers raise them, which end the process
            await self._end(keep=False)
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                for unit in self.units:
                    unit.cancel(Cancelled(f"{unit.label}: its task was cancelled; nothing is kept"))
                await self._end(keep=False)
                raise
            escaped = UsageError(f"{self.summary}: handle_message() raised {type(error).__name__}")
            escaped.__cause__ = error
            self.fail(escaped)
        finally:
            current_message.reset(token)

    async def _end(self, *, keep: bool) -> BaseException | None:
        self.decided = True
        fault: BaseException | None = await self.settle(keep=keep, commits=self.explicit.is_awaited)
        error = meant(fault or self.raised)
        # Of one that was stopped, that is what is answered; but for a COMMIT that it could not stop any more.
        if error is not None and not leaves_unknown(error):
            error = self.stopped or error
        self._release(keep=error is None)
        if error is None or self.explicit.done:
            await self.call_on_commit()
        return error

    async def _in_time(self, handling: Callable[[], Awaitable[None]]) -> None:
        deadline_at = self.unit.deadline_at
        left_s = None if deadline_at is None else max(0.0, deadline_at - time.monotonic())
        limit = asyncio.timeout(left_s)
        try:
            async with limit:
                await handling()
        except TimeoutError as error:
            if limit.expired():
                raise DeadlinePassed from error
            raise

    def _release(self, *, keep: bool) -> None:
        """Write what was held, or discard it. Sockets that have closed meanwhile are skipped."""
        self.holds = False
        held = [*self._replies, *self._closes]
        self._replies, self._closes = [], []
        for call in held if keep else ():
            with contextlib.suppress(WebSocketClosedError):
                call()


current_message: ContextVar[MessageTransaction | None] = ContextVar("onfinish_message", default=None)
"""The message that the running task handles. Not a scope: the session is found through its handler."""
