"""The stage: a handler that plays a program, the record of what happens in it, and its table."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenlet import GreenletExit
from sqlalchemy import ForeignKey, event, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Finish as TornadoFinish, HTTPError

from db.blocking import pause
from db.errors import ConnectionLost, RetryableConflict
from handlers import ApiHandler, Problem
from tests.endings.programs import (
    CONFLICTING,
    After,
    Afterwards,
    Before,
    Cancel,
    Commit,
    Finish,
    Group,
    Later,
    Leave,
    Program,
    Raise,
    Redirect,
    Run,
    Sleep,
    Status,
    Step,
)

MOMENT_S = 0.003
SLOW_S = 0.015
HANGS_S = 4
HANGS_AT_COMMIT_S = 2.5
NOTHING = -1
"""The id of no row: what refers to it is refused at COMMIT."""


class Panic(BaseException):
    """What PyO3, gevent and others raise: no `Exception`, and none of Python's own."""


# -- the table


class Base(DeclarativeBase):
    """Of tables that are no part of the service."""


class Mark(Base):
    """What one write of one request leaves. Nothing but the program keeps it from being there twice."""

    __tablename__ = "marks"

    id: Mapped[int] = mapped_column(primary_key=True)
    request: Mapped[int]
    attempt: Mapped[int]
    mark: Mapped[str]
    at_commit: Mapped[str | None]
    reference: Mapped[int | None] = mapped_column(ForeignKey("marks.id"))


MARKS = Base.metadata.tables["marks"]

_TABLE = """
    CREATE TABLE marks (
        id {serial} PRIMARY KEY,
        request integer NOT NULL,
        attempt integer NOT NULL,
        mark varchar NOT NULL,
        at_commit varchar,
        reference integer CONSTRAINT fk_marks_reference REFERENCES marks (id) DEFERRABLE INITIALLY DEFERRED)
"""
_TAKEN = ["CREATE TABLE taken (word varchar PRIMARY KEY)", "INSERT INTO taken VALUES ('taken')"]

DDL = {
    "sqlite": [_TABLE.format(serial="integer"), *_TAKEN],
    "postgresql": [
        _TABLE.format(serial="serial"),
        *_TAKEN,
        f"""
        CREATE FUNCTION speak_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            CASE NEW.at_commit
                WHEN 'conflict' THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001';
                WHEN 'slow' THEN PERFORM pg_sleep({SLOW_S});
                WHEN 'hang' THEN PERFORM pg_sleep({HANGS_AT_COMMIT_S});
                WHEN 'die' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(1);
            END CASE;
            RETURN NULL;
        END $$
        """,
        """
        CREATE CONSTRAINT TRIGGER speak_at_commit AFTER INSERT ON marks DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.at_commit IS NOT NULL) EXECUTE FUNCTION speak_at_commit()
        """,
    ],
}

_AT_COMMIT = {
    "conflicts at COMMIT": "conflict",
    "conflicts at COMMIT always": "conflict",
    "is slow at COMMIT": "slow",
    "hangs at COMMIT": "hang",
    "loses the connection at COMMIT": "die",
}


# -- the record


class Event(NamedTuple):
    """One thing that happened, as the handler or a model function saw it."""

    kind: str
    mark: str = ""
    """Of what step: its place in the program, with a letter where a function was registered."""
    does: str = ""
    error: BaseException | None = None
    status: int = 0


@dataclass
class Attempt:
    """What happened in one attempt at the request, in order. May be added to from any thread."""

    number: int
    events: list[Event] = field(default_factory=list)

    def note(self, kind: str, mark: str = "", does: str = "", **more: Any) -> None:
        """Add an event."""
        self.events.append(Event(kind, mark, does, **more))

    def all(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.events if event.kind in kinds]


@dataclass
class Answer:
    """What the client read."""

    status: int
    outcome: str | None
    answers: int


class Row(NamedTuple):
    """A row of the table."""

    mark: str
    attempt: int


@dataclass
class Record:
    """All that can be known of one request, from every side. Lives as long as its example.

    Args:
        number: the request's.
        writes_at_commit: whether the database has triggers that speak at COMMIT; else hooks do.
    """

    program: Program
    number: int
    writes_at_commit: bool
    attempts: list[Attempt] = field(default_factory=list)
    answer: Answer | None = None
    """None where none came in time, and where the client had left."""
    took_s: float = 0.0
    access: list[tuple[int, str]] = field(default_factory=list)
    """The access lines: status and word."""
    counted: list[tuple[str, str]] = field(default_factory=list)
    """The units of work in the metric: label and outcome."""
    rows: list[Row] = field(default_factory=list)
    log: list[logging.LogRecord] = field(default_factory=list)
    lent: dict[str, int] = field(default_factory=dict)
    """What did not come back."""
    wrong_states: list[str] = field(default_factory=list)
    """The sequences of states of units of work that the table does not have."""
    process_ended: BaseException | None = None
    """What came out of the event loop."""
    program_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """What the program has begun and does not await."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The client is to leave."""
    release: Callable[[], None] = lambda: None
    """Ends what keeps the database busy."""

    def begin(self) -> Attempt:
        """The next attempt."""
        if self.attempts:
            self.release()
        self.attempts.append(Attempt(len(self.attempts) + 1))
        return self.attempts[-1]


# -- the handler


class Stage(ApiHandler):
    """Plays the program of the record that the application's settings have. Lives as long as an attempt."""

    player: Player | None = None

    def initialize(self) -> None:
        """Take the program's settings."""
        self.record: Record = self.settings["record_of"](int(self.request.path[1:]))
        self.timeout_s = self.record.program.timeout_s
        self.cancel_on_disconnect = self.record.program.cancels or None  # type: ignore[misc]

    async def prepare(self) -> None:
        """Begin an attempt, and do what the program does here."""
        super().prepare()  # raises where this handler only answers for another
        self.player = Player(self, self.record, self.record.begin())
        await self.player.play_prepare()

    async def get(self) -> None:
        """The program."""
        assert self.player is not None
        await self.player.play()

    post = get

    def on_connection_close(self) -> None:
        """The client has left."""
        super().on_connection_close()
        if self.player is not None:
            self.player.gone.set()


class Player:
    """Plays a program on a handler, and notes what happens. Lives as long as that.

    None of this is in the handler itself, where a name could stand in the place of one of `ApiHandler`'s.
    """

    def __init__(self, handler: Stage, record: Record, attempt: Attempt) -> None:
        self.handler = handler
        self.record = record
        self.attempt = attempt
        self.own_task = asyncio.current_task()
        self.gone = asyncio.Event()
        self.finished = asyncio.Event()

    async def play_prepare(self) -> None:
        """What the program does in ``prepare``."""
        await self._noting_its_end(self._play(self.record.program.prepare, "p"))

    async def play(self) -> None:
        """What it does in the method."""
        await self._noting_its_end(self._play(self.record.program.steps, ""))
        if self.handler._auto_finish and not self._has_finished:
            self._finishes()
        self.attempt.note("ends")

    async def _noting_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except TornadoFinish:
            self._finishes()
            raise
        except BaseException as error:
            self.attempt.note("raises", error=error)
            raise

    def _finishes(self) -> None:
        self.attempt.note("finishes", status=self.handler.get_status())
        self.finished.set()

    @property
    def _has_finished(self) -> bool:
        return bool(self.attempt.all("finishes"))

    async def _play(self, steps: tuple[Step, ...], path: str) -> None:
        for number, step in enumerate(steps):
            if not self._has_finished or step == Sleep() or isinstance(step, Raise):
                await self._do(step, f"{path}{number}")

    async def _do(self, step: Step, mark: str) -> None:
        match step:
            case Run():
                await self._run(step, mark)
            case Commit():
                await self._commit(step, mark)
            case Before() | After() | Afterwards():
                self._register(step, mark)
            case Raise():
                self._raise(step.what)
            case Status():
                self.handler.set_status(step.code)
            case Finish():
                self._finishes()
                self.handler.finish()
            case Redirect():
                self.handler.set_status(302)
                self._finishes()
                self.handler.redirect("/elsewhere")
            case Later():
                self.handler._auto_finish = False
                if step.answers:
                    asyncio.get_running_loop().call_later(MOMENT_S, self._answer_later)
            case Sleep():
                await self._sleep(step)
            case Cancel():
                await self._cancel(step)
            case Leave():
                await self._see_the_client_off()
            case Group():
                async with asyncio.TaskGroup() as tasks:
                    for number, branch in enumerate(step.branches):
                        tasks.create_task(self._play(branch, f"{mark}.{number}."))

    # -- what goes to the unit of work

    async def _run(self, step: Run, mark: str) -> None:
        def function() -> None:
            self._work(self.handler.session, step.does, mark)

        if step.how == "forgotten":
            call = self.handler.run(function)
            self.attempt.note("forgets", mark, status=sys._getframe().f_lineno - 1)
            del call
            return

        async def run() -> None:
            self.attempt.note("run begins", mark)
            await self.handler.run(function)
            self.attempt.note("run ends", mark)

        await self._call(step.how, "run", mark, run)

    async def _commit(self, step: Commit, mark: str) -> None:
        async def commit() -> None:
            self.attempt.note("commit begins", mark)
            try:
                await self.handler.commit()
            except asyncio.CancelledError:
                raise  # of the waiter, and not of the commit
            except BaseException as error:
                self.attempt.note("commit fails", mark, error=error)
                raise
            self.attempt.note("commit ends", mark)

        await self._call(step.how, "commit", mark, commit)

    async def _call(
        self, how: str, what: str, mark: str, call: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        """Await a call, or not, as its step says."""
        attempt = self.attempt

        async def noted() -> None:
            try:
                await call()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  # it is not awaited
                attempt.note("swallows", mark, error=error)

        if how == "awaited":
            await call()
        elif how == "swallowed":
            try:
                await call()
            except Exception as error:  # noqa: BLE001
                attempt.note("swallows", mark, error=error)
        elif how.startswith("wait_for"):
            try:
                await asyncio.wait_for(call(), MOMENT_S)
            except TimeoutError as error:
                attempt.note("gives up", mark)
                if "swallowed" not in how:
                    raise
                attempt.note("swallows", mark, error=error)
        else:
            task = asyncio.get_running_loop().create_task(noted())
            attempt.note("leaves alone", mark, what)
            self.record.program_tasks.add(task)
            if how == "cancelled":
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])

    def _register(self, step: Before | After | Afterwards, mark: str) -> None:
        attempt = self.attempt
        try:
            if isinstance(step, Before):
                self.handler.before_commit(self._before, step.does, f"b{mark}")
            elif isinstance(step, Afterwards):
                self.handler.in_new_transaction(self._afterwards, step.does, f"f{mark}")
            else:
                self.handler.on_commit(self._after(step.does, f"a{mark}"))
        except Exception as error:
            attempt.note("is refused", mark, type(step).__name__, error=error)
            raise
        kind = {Before: "before", After: "after", Afterwards: "afterwards"}[type(step)]
        attempt.note(f"registers {kind}", f"{kind[0] if kind != 'afterwards' else 'f'}{mark}", step.does)

    def _before(self, session: Session, does: str, mark: str) -> None:
        self.attempt.note("calls before", mark, does)
        self._work(session, does, mark)

    def _afterwards(self, session: Session, does: str, mark: str) -> None:
        self.attempt.note("calls afterwards", mark, does)
        self._work(session, does, mark, main=False)

    def _after(self, does: str, mark: str) -> Callable[[], object]:
        attempt = self.attempt

        def called() -> None:
            attempt.note("calls after", mark, does)
            if does == "raises":
                raise ValueError("after the commit")
            if does == "panics":
                raise Panic("after the commit")

        async def awaits() -> None:
            attempt.note("calls after", mark, does)
            await asyncio.sleep(MOMENT_S)

        async def meets_a_cancelled_task() -> None:
            attempt.note("calls after", mark, does)
            task = asyncio.get_running_loop().create_task(asyncio.sleep(10))
            task.cancel()
            await task

        return {"awaits": awaits, "meets a cancelled task": meets_a_cancelled_task}.get(does, called)

    # -- what does not

    def _answer_later(self) -> None:
        if self.handler._finished or self._has_finished:
            return
        if self.attempt.all("ends", "raises"):
            self.attempt.note("answers late", status=self.handler.get_status())
        else:
            self._finishes()
        with contextlib.suppress(Exception):  # where another has answered
            self.handler.finish()

    def _raise(self, what: str) -> None:
        if what == "Finish":
            raise TornadoFinish
        if what == "RetryableConflict" and self.attempt.number > 1:
            return
        errors: dict[str, Callable[[], BaseException]] = {
            "ValueError": ValueError,
            "404": lambda: HTTPError(404),
            "503": lambda: HTTPError(503),
            "Problem 418": lambda: Problem(418, "no coffee"),
            "Panic": Panic,
            "RetryableConflict": lambda: RetryableConflict("deadlock"),
            "RetryableConflict always": lambda: RetryableConflict("deadlock"),
            "ConnectionLost always": ConnectionLost,
        }
        raise errors[what]()

    async def _sleep(self, step: Sleep) -> None:
        if step.how == "a moment" or self.attempt.all("sleeps"):
            await asyncio.sleep(MOMENT_S * 2)
            return
        self.attempt.note("sleeps")  # once: what sleeps on is not cancelled again
        try:
            async with asyncio.timeout(30):  # where a callback answers, it is not cancelled either
                await self.finished.wait()
        except asyncio.CancelledError:
            if step.how == "past the deadline":
                raise

    async def _see_the_client_off(self) -> None:
        if self.record.left.is_set():  # in another branch, or at an earlier attempt
            return
        self.record.left.set()
        # One that has been answered meanwhile, by a callback, hears no more of its client.
        waits = [asyncio.ensure_future(event.wait()) for event in (self.gone, self.finished)]
        try:
            done, _ = await asyncio.wait(waits, timeout=2, return_when=asyncio.FIRST_COMPLETED)
            assert done, "nothing noticed that the client had left"
        finally:
            for wait in waits:
                wait.cancel()

    async def _cancel(self, step: Cancel) -> None:
        assert self.own_task is not None
        self.own_task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not step.swallowed:
                raise

    # -- model functions

    def _work(self, session: Session, does: str, mark: str, *, main: bool = True) -> None:
        """What a function does with its session. Notes "writes" where its row has been sent."""
        meets = self.attempt.number <= CONFLICTING.get(does, 0)
        if does == "reads":
            session.execute(text("SELECT count(*) FROM marks"))
        elif does == "is slow":
            session.execute(text("SELECT 1"))
            pause(SLOW_S)
        elif does == "hangs":
            self._write(session, does, mark, main=main)
            _hang(session)
        elif does in ("conflicts", "conflicts always"):
            self._write(session, does, mark, main=main)
            if meets:
                _conflict(session)
        elif does == "loses the connection":
            self._write(session, does, mark, main=main)
            if meets:
                _lose(session)
        elif does == "is refused":
            self._write(session, does, mark, main=main)
            session.execute(text("INSERT INTO taken VALUES ('taken')"))
        elif does == "is refused at COMMIT":
            self._write(session, does, mark, main=main, reference=NOTHING)
        elif does in _AT_COMMIT and self.record.writes_at_commit:
            speaks = meets or does not in CONFLICTING
            self._write(session, does, mark, main=main, at_commit=_AT_COMMIT[does] if speaks else None)
        elif does == "adds" or "in a flush hook" in does or does in _AT_COMMIT:
            self._add(session, does, mark, meets, main=main)
        else:
            self._write(session, does, mark, main=main)
            self._fail(does, mark)

    def _write(self, session: Session, does: str, mark: str, *, main: bool, **values: Any) -> None:
        if main and self.record.program.method == "GET" and does != "writes":
            return  # what goes wrong in a read, goes wrong without a write
        session.execute(insert(MARKS).values(**self._values(mark), **values))
        self.attempt.note("writes" if main else "writes afterwards", mark, does)

    def _add(self, session: Session, does: str, mark: str, meets: bool, *, main: bool) -> None:
        attempt = self.attempt

        def hook(session: Session, *arguments: object) -> None:
            attempt.note("flushes", mark, does)
            if does == "is slow at COMMIT":
                pause(SLOW_S)
            elif does in CONFLICTING:
                if meets:
                    raise ConnectionLost if does.startswith("loses") else RetryableConflict("serialization")
            else:
                self._fail(does, mark)

        session.add(Mark(**self._values(mark)))
        if does != "adds":
            event.listen(session, "before_flush", hook)
        attempt.note("writes" if main else "writes afterwards", mark, does)

    def _fail(self, does: str, mark: str) -> None:
        errors: dict[str, type[BaseException]] = {
            "raises": ValueError,
            "panics": Panic,
            "exits": SystemExit,
            "ends its greenlet": GreenletExit,
        }
        error = errors.get(does.partition(" in a flush hook")[0])
        if error is not None:
            self.attempt.note("fails", mark, does)
            raise error("on purpose")

    def _values(self, mark: str) -> dict[str, Any]:
        return {"request": self.record.number, "attempt": self.attempt.number, "mark": mark}


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _conflict(session: Session) -> None:
    if _is_postgresql(session):
        session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001'; END $$"))
    raise RetryableConflict("serialization")


def _lose(session: Session) -> None:
    if _is_postgresql(session):
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)"))
    raise ConnectionLost


def _hang(session: Session) -> None:
    if _is_postgresql(session):
        session.execute(text(f"SELECT pg_sleep({HANGS_S})"))
    else:
        counting = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000)"
        session.execute(text(f"{counting} SELECT count(*) FROM n"))
