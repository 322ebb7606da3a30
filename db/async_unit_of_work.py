"""A unit of work whose owner lives on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from sqlalchemy.orm import Session

from db.errors import (
    Cancelled,
    ConcurrentUse,
    DatabaseError,
    DeadlinePassed,
    OutcomeUnknown,
    SessionSettled,
    Unavailable,
)
from db.hop import Hop
from db.lane import Lane
from db.seat import Seat
from db.unit_of_work import Outcome, UnitOfWork

if TYPE_CHECKING:
    from db.database import Database

log = logging.getLogger("onfinish.db")

P = ParamSpec("P")
R = TypeVar("R")

Work = Callable[[Session], object]
"""What is done with a session, by itself a unit of work."""

QUEUED_S = 0.01
"""Who waited longer than this for a place stood in the queue, and what it waits for next counts as well."""


class AsyncUnitOfWork:
    """A `UnitOfWork` for code on the event loop: its work runs a hop at a time, in its lane.

    Lives as long as one request, or one ``async with database.unit_of_work()``. Takes a place before
    the first hop and keeps it until it is settled. Settled exactly once, by whoever comes first: its
    owner, or whoever stopped it.

    Warns:
        ResourceWarning: dropped without `settle`; what it held came back, and its work is undone.
    """

    def __init__(
        self,
        database: Database,
        lane: Lane,
        *,
        label: str,
        snapshot: bool,
        deadline_at: float | None,
        origin: object = None,
        runs_again: bool = False,
    ) -> None:
        self.label = label
        self.origin = origin
        self.observed: object = None
        self.deadline_at = deadline_at
        self.opened_at = time.monotonic()
        self.db_s = 0.0
        self.reason: Cancelled | None = None
        self._database = database
        self._lane = lane
        self._unit = UnitOfWork(
            lane.engine,
            lane.dialect,
            label=label,
            read_only=lane.read_only,
            snapshot=snapshot,
            deadline_at=deadline_at,
            confined=True,
            witness=database.witness,
            schema=database.schema,
        )
        self._unit.watch.runs_again = runs_again
        self.session: Session = self._unit.session
        self._seat = Seat(database, lane, label)
        self._running = False
        self._hop: Hop | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._settling = False
        self._abandoned = self._ended = False
        self._settled: asyncio.Future[None] | None = None
        database.opened(self)

    @property
    def outcome(self) -> Outcome:
        """What has become of the work."""
        if self._abandoned:  # it cannot be committed any more, but where COMMIT itself hangs
            return Outcome.UNKNOWN if self._unit.watch.committing else Outcome.UNDONE
        return self._unit.outcome

    @property
    def commit_s(self) -> float:
        """How long COMMIT took, in seconds."""
        return self._unit.commit_s

    @property
    def pool(self) -> str:
        """Whose places and connections it works with: "writer" or "reader"."""
        return self._lane.places.name

    @property
    def read_only(self) -> bool:
        """Whether the database refuses it to write."""
        return self._lane.read_only

    @property
    def has_connection(self) -> bool:
        """Whether it holds a connection at this moment."""
        return self._unit.watch.has_connection

    @property
    def statement(self) -> str | None:
        """The SQL that it sent last, without parameters."""
        return self._unit.watch.statement

    @property
    def has_place(self) -> bool:
        """Whether the unit holds one of its lane's places, and with it perhaps a connection."""
        return self._seat.taken

    @property
    def settled(self) -> bool:
        """Whether the decision is made, or is being made."""
        return self._settling

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a plain function where it may wait for the database, and return what it returns.

        The first call takes a place, which may take up to ``database.pool_timeout_s``. The function
        sees the context variables of the caller.

        Raises:
            NoPlace: all places stayed taken. Nothing has run; the unit stays usable.
            ConcurrentUse: another call is under way. That call goes on.
            SessionSettled: the unit's work is over.
            Cancelled: the unit was stopped; it can only be undone.
            DatabaseError: what the driver reported, translated.
            Exception: whatever the function raises.
        """
        self._check_usable()
        self._running = True
        try:
            if not self._seat.taken:
                await self._take_place()
            return await self._start(self._unit.call, function, *args, **kwargs)  # type: ignore[no-any-return]
        finally:
            self._running = False

    async def settle(
        self,
        *,
        keep: bool,
        last: Work | None = None,
        afterwards: Callable[[Exception | None], Iterable[Work]] | None = None,
    ) -> None:
        """Commit or roll back, give everything back.

        Args:
            keep: commit, unless the unit was stopped meanwhile.
            last: called with the session just before COMMIT, in the same hop.
            afterwards: asked for what is to follow, with the error that kept the work from being kept if
                there was one. Each function is called with a new session, in a unit of work of its own;
                what they raise is logged.

        Raises:
            DatabaseError: ``keep`` was asked for, and the work was not kept, or nobody knows.
        """
        first, self._settling = not self._settling, True
        fault: Exception | None = None
        try:
            if first:
                await self._settle(keep, last)
            else:
                await self._settled_by_another()
        except Exception as error:
            fault = error
            raise
        finally:
            try:
                for function in afterwards(fault) if afterwards is not None else ():
                    await self._follow_up(function)
            finally:
                self._end()
        if keep and self.outcome is Outcome.UNDONE:
            raise self.reason or SessionSettled(f"{self.label}: the unit of work was undone already")

    def settle_at_once(self, *, keep: bool) -> bool:
        """Settle without a hop, where that sends nothing to the database. Returns whether it was so."""
        if self._settling or self._running or self._hop is not None or not self._unit.settles_at_once:
            return False
        self._settling = True
        self._unit.settle_at_once(keep=keep and self.reason is None)
        self._end()
        return True

    def cancel(self, reason: Cancelled) -> None:
        """Stop the unit: nothing more of it starts, its running statement is cancelled, nothing is kept.

        Returns at once; the place is given back as soon as the running hop has ended. A COMMIT that
        has been sent is not cancelled; only at the deadline is its connection given up. Must be called
        on the event loop. Later calls change nothing, except that a deadline also ends a COMMIT.
        """
        late = self._settling
        if self._unit.outcome is not Outcome.OPEN and not late:
            return
        if late and not isinstance(reason, DeadlinePassed):
            return
        self.reason = self.reason or reason
        self._unit.watch.mark(self.reason)
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._timer = (
            None
            if self.deadline_at is None
            else loop.call_later(self.deadline_at - time.monotonic(), self.cancel, DeadlinePassed())
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._hop is not None and isinstance(error, asyncio.CancelledError):
            self.cancel(Cancelled(f"{self.label}: its task was cancelled; nothing is kept"))
        try:
            await self.settle(keep=kind is None)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # -- hops

    def _check_usable(self) -> None:
        if self.reason is not None:
            raise self.reason
        if self._settling:
            raise self._over()
        if self._running or self._hop is not None:
            raise ConcurrentUse(
                f"{self.label}: `run` was called while another of the same session was under way (as with "
                "`asyncio.gather`); a session does one thing at a time: await one after the other, do both "
                "in one function, or give each a `database.unit_of_work()` outside of the request"
            )

    def _over(self) -> SessionSettled:
        return SessionSettled(
            f"{self.label}: `run` was called after the unit of work had been settled; for later work there "
            "are `self.afterwards(…)` and `database.unit_of_work()`"
        )

    async def _take_place(self) -> None:
        waited_s = await self._seat.take(self._seconds_to_wait())
        if waited_s > QUEUED_S:
            queued_at = time.monotonic() - waited_s
            self._unit.watch.begin_by = queued_at + self._database.settings.pool_timeout_s
        if self._settling:  # its owner went on without it while it stood in the queue
            self._seat.leave()
            raise self.reason or self._over()
        if self.reason is not None:
            raise self.reason

    def _seconds_to_wait(self) -> float:
        limit = self._database.settings.pool_timeout_s
        return (
            limit if self.deadline_at is None else min(limit, max(0.0, self.deadline_at - time.monotonic()))
        )

    def _start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Start a hop. Returns its answer: a waiter that is cancelled cancels that, and the hop runs on."""

        def work() -> Any:
            worker = self._database.claim_here(self.label, self._lane.dialect)
            try:
                return function(*args, **kwargs)
            finally:
                self._database.unclaim(worker)

        hop = self._hop = self._lane.hops.start(work, self._hop_ended)
        if self.reason is not None:  # only the end of a stopped unit is still to come, and may hang as well
            self._ending = asyncio.get_running_loop().create_task(self._end_hop(hop))
        return hop.answer

    def _hop_ended(self, hop: Hop) -> None:
        self.db_s += hop.took_s
        self._hop = None
        if self._abandoned:  # what it held comes back now
            self._lane.hops.detach(self._clean_up)

    # -- the end

    async def _settle(self, keep: bool, last: Work | None) -> None:
        if self._hop is not None and not await self._hop.over():
            if keep:
                raise self.reason or Unavailable("the database did not answer in time")
        elif (self._unit.settles_at_once and not (last and keep)) or not (keep or self._seat.taken):
            self._unit.settle(keep=keep and self.reason is None)
        else:
            if not self._seat.taken:  # rows were added to the session, and no `run` has taken a place yet
                try:
                    await self._seat.take(self._seconds_to_wait())
                except BaseException:
                    self._unit.settle(keep=False)
                    raise
            try:
                await self._start(self._unit.settle, keep=keep, last=last)
            except asyncio.CancelledError:
                # Nobody waits for the hop any more, which runs on: where COMMIT is not sent yet, it never is.
                self._unit.watch.mark(Cancelled(f"{self.label}: its task was cancelled; nothing is kept"))
                raise
            except DatabaseError:
                if keep:
                    raise  # else it was given up on, and the database undoes it

    async def _stop(self) -> None:
        """End the running hop, then see that the unit is undone."""
        if self._hop is not None:
            await self._end_hop(self._hop)
        if not self._settling:
            await self.settle(keep=False)

    async def _end_hop(self, hop: Hop) -> None:
        watch = self._unit.watch
        if not await hop.end(watch):
            hop.give_up(OutcomeUnknown() if watch.committing else (self.reason or DeadlinePassed()))

    async def _settled_by_another(self) -> None:
        if not self._ended:
            if self._settled is None:
                self._settled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._settled)

    async def _follow_up(self, function: Work) -> None:
        """Do a piece of work of its own, on this unit's place where that is a writer's."""
        label = f"{self.label} afterwards"
        try:
            if self._seat.taken and self._hop is None and self._lane is self._database.writer:
                await self._start(self._database.do, function, label=label)
            else:
                self._end()  # a reader's place is of no use to a write, and is not kept while it waits
                async with self._database.unit_of_work(label=label) as unit:
                    await unit.run(function, unit.session)
        except Exception:
            log.exception("%s: failed", label)

    def _end(self) -> None:
        first, self._ended = not self._ended, True
        if self.reason is not None:  # it holds the frames that it came through, and with them a cursor
            self.reason.__traceback__ = self.reason.__cause__ = self.reason.__context__ = None
        if self._hop is None:
            self._seat.leave()
        elif not self._abandoned:  # given up on: its owner may go on meanwhile
            self._abandoned = self._unit.abandoned = True
            self._seat.let_go()
        if first:
            self._database.ended(self)
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _clean_up(self) -> None:
        if not self._unit.settled:
            self._unit.settle(keep=False)
        self._seat.leave()
