"""What happens between the beginning of a request, or of a WebSocket's message, and its end.

::

    RequestTransaction          the unit of work, its hooks, and how it ends
    ├── HttpTransaction         one attempt at a request; its response is held  (http_transaction)
    └── MessageTransaction      one attempt at a message; its replies are held  (message)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from sqlalchemy.orm import Session
from tornado.web import HTTPError

from db import AsyncUnitOfWork, Database, Outcome
from db.errors import Cancelled, DeadlinePassed, PartlyCommitted, UsageError
from db.retry import RetryPolicy
from db.work.async_unit_of_work import Work
from handlers.lifecycle.errors import leaves_unknown, meant
from handlers.lifecycle.hooks import CommitHooks, ExplicitCommit

log = logging.getLogger("onfinish.handlers")

TOO_LATE = "the time for this request ran out after its work had been applied"


class RequestTransaction:
    """One attempt at a request or at a message. Lives until its unit of work is settled and answered.

    The work is rolled back unless `settle` is reached with ``keep``, no exception was recorded by `fail`,
    and the COMMIT succeeds.

    Args:
        database: the application's.
        unit: its unit of work there.
        attempt: the number of the attempt, from 1.
        may_retry: whether another attempt can be made at all.
    """

    hooks = CommitHooks()
    """What is to be called round the end; the class's own is empty, and stays so."""

    explicit = ExplicitCommit()
    """The handler's own call of `commit`; the class's own is that of a handler that has not called it."""

    others: Mapping[str, AsyncUnitOfWork] = {}
    """Its units of work at other databases, by name; the class's own is empty, and stays so."""

    _kept: tuple[str, ...] = ()
    """The other databases whose COMMIT was applied."""

    _is_partly_kept = False

    def __init__(self, database: Database, unit: AsyncUnitOfWork, *, attempt: int, may_retry: bool) -> None:
        self.database = database
        self.unit = unit
        self.attempt = attempt
        self.stopped: Cancelled | None = None
        """Why it was stopped from outside: that is answered, whatever its handler raises then."""
        self.raised: BaseException | None = None
        self.failed = False
        self.decided = False
        """Whether the answer is complete, so that nothing can be registered any more."""
        self.conflict: BaseException | None = None
        """The error for which it is retried."""
        self._may_retry = may_retry

    @property
    def summary(self) -> str:
        """How messages and log lines name it."""
        raise NotImplementedError

    @property
    def policy(self) -> RetryPolicy:
        """Which errors are retried, and how often; asked for when something has failed."""
        raise NotImplementedError

    # -- what handlers call, see `TransactionMethods`

    async def commit(self) -> None:
        """Commit before the end."""
        if "explicit" not in self.__dict__:
            self.explicit = ExplicitCommit()
        await self.explicit.make(lambda: self._settle_units(keep=True, last=self.hooks.last_work))
        await self.call_on_commit()

    def before_commit(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """Register a function for the last work before COMMIT."""
        self._check_undecided("before_commit")
        if self.explicit.begun:
            raise UsageError(
                f"{self.summary}: before_commit() was called after commit(), and would never be run: "
                "register the function first"
            )
        self._own_hooks().before_commit(function, args, kwargs)

    def on_commit(self, call: partial[object]) -> None:
        """Register a function for the time after COMMIT."""
        if not self.hooks.on_commit.under_way:
            self._check_undecided("on_commit")
        self._own_hooks().on_commit.add(call)

    def in_new_transaction(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """Register a function for a unit of work that follows."""
        self._check_undecided("in_new_transaction")
        self._own_hooks().follow_up(function, args, kwargs)

    def session_of(self, name: str) -> Session:
        """The session at another database; its unit of work is made when it is asked for first."""
        unit = self.others.get(name)
        if unit is None:
            if self.decided or self.explicit.begun:
                raise UsageError(
                    f"{self.summary}: session_of({name!r}) was called after commit() or finish(): its work "
                    "would never be committed; ask for it before"
                )
            databases: Mapping[str, Database] = self.settings.get("databases", {})
            if name not in databases:
                raise UsageError(
                    f"{self.summary}: there is no database {name!r}; the setting `databases` has "
                    f"{', '.join(map(repr, databases)) or 'none'}"
                )
            unit = self.new_unit(databases[name])
            self.others = {**self.others, name: unit}
            if self.stopped is not None:
                unit.cancel(self.stopped)
        return unit.session

    def unit_for(self, arguments: Iterable[object]) -> AsyncUnitOfWork:
        """The unit whose session is among the arguments of a function; by default that of ``database``."""
        sessions = {id(unit.session): unit for unit in self.units}
        named = {id(each): sessions[id(each)] for each in arguments if id(each) in sessions}
        if len(named) > 1:
            raise UsageError(
                f"{self.summary}: `run` was called with the sessions of {len(named)} databases; a function "
                "works with one: call `run` once for each"
            )
        return next(iter(named.values()), self.unit)

    @property
    def units(self) -> tuple[AsyncUnitOfWork, ...]:
        """All its units of work, that of ``database`` first."""
        return (self.unit, *self.others.values())

    @property
    def settings(self) -> Mapping[str, Any]:
        """The application's."""
        raise NotImplementedError

    def new_unit(self, database: Database) -> AsyncUnitOfWork:
        """A unit of work at another database, with the deadline of this one."""
        raise NotImplementedError

    def _own_hooks(self) -> CommitHooks:
        if "hooks" not in self.__dict__:
            self.hooks = CommitHooks()
        return self.hooks

    # -- what decides

    @property
    def outcome(self) -> Outcome:
        """What has become of the work; UNKNOWN also where one database has kept it and another has not."""
        if self._is_partly_kept or any(each.outcome is Outcome.UNKNOWN for each in self.others.values()):
            return Outcome.UNKNOWN
        return self.unit.outcome

    def fail(self, error: BaseException | None) -> None:
        """Record an error, which rolls the work back. The first one counts; none does after the decision."""
        if not self.decided:
            self.failed = True
            self.raised = self.raised or error

    def cancel(self, reason: Cancelled) -> None:
        """Stop it: its statement is cancelled, and nothing is kept, except by a COMMIT that was sent."""
        self.stopped = reason
        for unit in self.units:
            unit.cancel(reason)

    def deadline_passed(self) -> None:
        """Cancel the unit's statement. A COMMIT that has been sent may still complete."""
        self.cancel(DeadlinePassed(TOO_LATE) if self.explicit.done else DeadlinePassed())

    def retries(self, error: BaseException | None) -> bool:
        """Whether another attempt follows this error."""
        applied = self.explicit.under_way or self.explicit.done or self._kept
        if error is None or not self._may_retry or applied:
            return False
        policy, deadline_at, own = self.policy, self.unit.deadline_at, meant(error)
        return (
            policy.retries(own)
            and self.attempt < policy.attempts_for(own)
            and (deadline_at is None or time.monotonic() < deadline_at)
        )

    async def pause(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self.policy.pause_s(self.attempt))

    # -- the end

    def settle_at_once(self, *, keep: bool) -> bool:
        """Settle without leaving the event loop, where that sends nothing. Returns whether it was so."""
        if self.hooks or self.others or self.explicit.is_awaited or not self.unit.settle_at_once(keep=keep):
            return False
        self._decide_retry(self.raised)
        return True

    async def settle(
        self, *, keep: bool, fault: Exception | None = None, commits: bool = False
    ) -> Exception | None:
        """Commit, or roll back, and do the work that was to follow in transactions of its own.

        Args:
            keep: commit, as far as nothing has stopped or failed it.
            fault: why the answer cannot be sent as it is.
            commits: a `commit` was still to be awaited when this was decided; it may have ended since.

        Returns:
            The error that is to be answered in place of the answer; None where the answer may leave.
        """
        if commits or self.explicit.is_awaited:
            fault = await self._await_commit() or fault
        self._decide_retry(fault or self.raised)
        try:
            last = None if self.explicit.begun else self.hooks.last_work
            await self._settle_units(keep=keep, last=last, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001  # any error is answered
            fault = fault or error  # the first of them
        return fault

    async def _settle_units(
        self,
        *,
        keep: bool,
        last: Work | None = None,
        follow_ups: Callable[[Exception | None], Iterable[Work]] | None = None,
    ) -> None:
        """As `AsyncUnitOfWork.settle`, for all units: those of other databases first, as they were asked for.

        What can fail before a COMMIT does so before the first of them. Once a COMMIT was applied, a failure
        of a later one is `PartlyCommitted`.
        """
        if not self.others:
            await self.unit.settle(keep=keep, last=last, follow_ups=follow_ups)
            return
        fault: Exception | None = None

        def due(error: Exception | None) -> Iterable[Work]:
            return () if follow_ups is None else follow_ups(fault or self._partly(error))

        try:
            if keep and not self.unit.read_only:
                fault, last = await self._prepare(last), None
            fault = await self._settle_others(keep, fault)
            try:
                await self.unit.settle(keep=keep and fault is None, last=last, follow_ups=due)
            except Exception as error:  # noqa: BLE001  # it is raised below
                fault = fault or self._partly(error)
        except BaseException:
            for unit in self.units:  # each settles by itself
                unit.cancel(Cancelled(f"{unit.label}: its task was cancelled; nothing is kept"))
            raise
        if fault is not None:
            raise fault

    async def _prepare(self, last: Work | None) -> Exception | None:
        """Do all that precedes a COMMIT, at all databases. Returns the error for which none follows."""
        try:
            for unit in self.units:
                await unit.prepare(last if unit is self.unit else None)
        except Exception as error:  # noqa: BLE001  # `_settle_units` raises it
            return error
        return None

    async def _settle_others(self, keep: bool, fault: Exception | None) -> Exception | None:
        """Settle the units of other databases. Returns the error for which nothing more is committed."""
        for name, unit in self.others.items():
            commits = unit.commits
            try:
                await unit.settle(keep=keep and fault is None)
            except Exception as error:  # noqa: BLE001  # `_settle_units` raises it
                fault = fault or error
            else:
                if commits and keep and fault is None:
                    self._kept += (name,)
        return self._partly(fault)

    def _partly(self, error: Exception | None) -> Exception | None:
        """An error of the end, as what it is where another database has kept its part already."""
        if error is None or not self._kept or self.explicit.done or leaves_unknown(error):
            return error
        self._is_partly_kept = True
        log.error(
            "%s: the work was committed at %s, and not at the databases that follow",
            self.summary,
            ", ".join(self._kept),
            exc_info=error,
        )
        partly = PartlyCommitted()
        partly.__cause__ = error
        return partly

    async def call_on_commit(self) -> None:
        """Call what was registered for the time after COMMIT."""
        if self.hooks.on_commit:
            await self.hooks.on_commit.call(self.summary, self.database.in_thread)

    async def _await_commit(self) -> Exception | None:
        """Wait for a `commit` whose caller is gone. Returns the error to be answered instead, if any.

        An exception that the handler has raised meanwhile is answered again, with the outcome of the commit.
        """
        error, raised = await self.explicit.end(), self.raised
        if error is not None:
            if raised is not None and self.stopped is None and not self.policy.retries(meant(raised)):
                self.log_raised(raised)
            return error
        if self.stopped is not None:
            return DeadlinePassed(TOO_LATE) if isinstance(self.stopped, DeadlinePassed) else self.stopped
        if not self.failed and self.status < 400:
            return None
        if raised is None:  # send_error() with a status alone
            return HTTPError(self.status)
        return raised if isinstance(raised, Exception) else UsageError(f"{self.summary}: was cancelled")

    @property
    def status(self) -> int:
        """The status of the answer, as it is now."""
        return 200

    def log_raised(self, error: BaseException) -> None:
        """Log an error that was raised by the handler and is not the one that is answered."""
        raise NotImplementedError

    def _decide_retry(self, error: BaseException | None) -> None:
        if leaves_unknown(error):  # a retry could apply the work twice
            self.conflict = None
        elif error is not None and self.retries(error):
            self.conflict = meant(error)

    def _due_follow_ups(self, error: Exception | None) -> list[Work]:
        """The functions for units of work of their own: once a request, at the attempt that is answered."""
        self._decide_retry(error)
        return [] if self.conflict is not None else self.hooks.follow_ups

    def _check_undecided(self, method: str) -> None:
        if self.decided:  # the work may be settled already
            raise UsageError(
                f"{self.summary}: {method}() was called after finish(), and might never be run: register "
                "the function first"
            )
