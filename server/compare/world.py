"""The world of one scenario: handlers under one column, on a real socket and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, scoped_session
from tornado.httpserver import HTTPServer
from tornado.routing import URLSpec
from tornado.testing import bind_unused_port
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClientConnection, websocket_connect

from conf import DatabaseSettings
from db import make_engine
from db.engines.engine import blocking
from db.scope import Explicit
from db.work.session import SettledSession
from handlers import log_request
from server.compare.columns import COLUMNS, Work
from server.compare.handlers import registered
from server.compare.model import Entry, list_entries
from server.compare.verdicts import Evidence, Found, ModelCall, Verdict, judge
from server.compare.wire import Wire

P = ParamSpec("P")
R = TypeVar("R")

SETTLE_S = 2.0
"""How long requests and tasks may take to end once the scenario is over."""

ANSWER_S = 40.0

LOOK_S = 0.002


@dataclass
class _Known:
    """What the world knows of a session."""

    number: int
    owner: str | None = None
    ended: bool = False


class World:
    """One application under one column. Lives as long as one scenario, which its ``async with`` block runs.

    The garbage collector does not run meanwhile: what was not returned is out when the scenario ends,
    and is counted again after a collection.

    Args:
        settings: of a scratch database.
        column: which column, by name.
        pool_timeout_s: how long a slot or a connection is waited for.
    """

    def __init__(self, settings: DatabaseSettings, column: str, *, pool_timeout_s: float = 0.5) -> None:
        self.settings = settings.model_copy(update={**_LIMITS, "pool_timeout_s": pool_timeout_s})
        self.evidence = Evidence()
        self.column = COLUMNS[column](self.settings)
        self.scope = self.column.scope
        self.under_way = 0
        """Handlers that are being executed."""
        self._reader = make_engine(blocking(self.settings), "reader")
        self._sessions: weakref.WeakKeyDictionary[Session, _Known] = weakref.WeakKeyDictionary()
        self._runs: dict[int, set[int]] = {}
        self._numbers = itertools.count(1)
        self._events: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[object]] = []
        self._servers: list[HTTPServer] = []
        self._sockets: list[WebSocketClientConnection] = []
        self._wires: list[Wire] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._rows_before = {entry_id for entry_id, _ in self._committed()}
        self._collects = gc.isenabled()
        gc.disable()
        gc.freeze()  # a collection looks at what the scenario has made
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.unfreeze()
        if self._collects:
            gc.enable()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._sockets:
            connection.close()
        for wire in self._wires:
            wire.leave()
        for server in self._servers:
            server.stop()
            await server.close_all_connections()
        await self._idle()
        if not self.column.guarded:  # what is left open would hold locks of the next scenario's database
            for session in list(self._sessions):
                session.close()
        await self.column.close(SETTLE_S)
        self._reader.dispose()

    # -- what a scenario is made of

    def mount(self, *handlers: type[RequestHandler], elsewhere: bool = False, path: str = "/scenario") -> int:
        """Serve an application with these handlers, each under the column; returns the port.

        Args:
            elsewhere: as another application in the same process, with a database object of its own.
        """
        own = {"scope": self.scope, "world": self}
        bound = []
        for number, handler in enumerate(handlers):
            bases = (handler, self.column.handler) if issubclass(handler, Probe) else (handler,)
            bound.append(URLSpec(f"{path}{number or ''}", type(handler.__name__, bases, own)))
        settings = self.column.app_settings(elsewhere=elsewhere)
        if self.column.guarded:
            settings |= {"log_function": log_request, "cross_origin_protection": True, "forms": False}
        else:
            settings |= {"log_function": lambda handler: None}
        server = HTTPServer(Application(bound, **settings))
        listening, port = bind_unused_port()
        listening.listen(_BACKLOG)
        server.add_socket(listening)
        self._servers.append(server)
        self.port = self.port or port
        return port

    @contextlib.asynccontextmanager
    async def job(self, caller: str, *, elsewhere: bool = False, entered: bool = True) -> AsyncIterator[Work]:
        """A block of work outside of any request, in a session that the caller owns; see `Column.job`."""
        async with self.column.job(caller, elsewhere=elsewhere, entered=entered) as work:
            self.owns(work.session, caller)
            session = work.session
            yield work
        self.ended(session)

    @contextlib.contextmanager
    def script(self, caller: str) -> Iterator[Session]:
        """The same, for code that blocks."""
        with self.column.script() as session:
            self.owns(session, caller)
            yield session
        self.ended(session)

    async def post(
        self, caller: str = "A", *, port: int = 0, path: str = "/scenario", body: bytes = b""
    ) -> int:
        """Send a request; returns the status, 599 where the connection was closed without an answer.

        Args:
            caller: the request's name in the evidence.
            port: of another server than the first.
        """
        wire = await self.connect(port)
        wire.send(f"{path}?caller={caller}", body=body)
        code = (await wire.answer(ANSWER_S)).status
        wire.leave()
        self.evidence.answers.append((caller, code))
        return code

    async def connect(self, port: int = 0) -> Wire:
        """A connection to write bytes to, and to break off."""
        wire = await Wire.to(port or self.port)
        self._wires.append(wire)
        return wire

    async def websocket(self, caller: str) -> WebSocketClientConnection:
        """An open WebSocket."""
        connection = await websocket_connect(f"ws://127.0.0.1:{self.port}/scenario?caller={caller}")
        self._sockets.append(connection)
        return connection

    def event(self, name: str) -> asyncio.Event:
        """The event of that name."""
        return self._events.setdefault(name, asyncio.Event())

    def happened(self, name: str) -> None:
        """Set the event of that name."""
        self.event(name).set()

    async def until(self, *names: str) -> None:
        """Wait until all of these events are set."""
        for name in names:
            await self.event(name).wait()

    def begin(self, work: Coroutine[Any, Any, object], *, clean: bool = False) -> asyncio.Task[object]:
        """Begin a task that the scenario does not await; the world waits for it at its end.

        Args:
            clean: in a context of its own, as at the start of the program.
        """
        context = contextvars.Context() if clean else None
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.append(task)
        return task

    def expect(self, *, kept: str | set[str] = "", undone: str | set[str] = "", refused: str = "") -> None:
        """Name the rows that have to be in the database at the end, and those that must not.

        Args:
            refused: those that must not, and of which no client may read a success either.
        """
        self.evidence.to_be_refused |= {refused} - {""}
        undone = {undone} - {""} if isinstance(undone, str) else undone
        self.evidence.to_be_kept |= {kept} - {""} if isinstance(kept, str) else kept
        self.evidence.to_be_undone |= undone

    def owns(self, session: Session, caller: str) -> None:
        """Record the owner of a session: the first that says so."""
        known = self._known(session)
        if known.owner is None:
            known.owner = caller

    def ended(self, session: Session) -> None:
        """Record that the owner of a session has closed it."""
        if type(session) is not SettledSession:
            self._known(session).ended = True

    def watched(self, function: Callable[..., R]) -> Callable[..., R]:
        """A function as it goes through ``run``: while it is under way, no other one may use its session."""

        def call(*args: Any, **kwargs: Any) -> R:
            own: set[int] = set()
            token = _run.set(own)
            self._runs[id(own)] = own
            try:
                return function(*args, **kwargs)
            finally:
                del self._runs[id(own)]
                _run.reset(token)

        return call

    @contextlib.contextmanager
    def meant(self, caller: str) -> Iterator[None]:
        """Forget the errors of a caller whose requests are to fail in the block."""
        yield
        self.evidence.errors = [each for each in self.evidence.errors if each[0] != caller]

    @contextlib.contextmanager
    def recording_errors(self, caller: str) -> Iterator[None]:
        """Record what is raised in the block as evidence, and end it there."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, it is judged
            self.evidence.errors.append((caller, error))

    def model(
        self, caller: str, function: Callable[Concatenate[Session, P], R], session: Session
    ) -> Callable[P, R]:
        """A model function as code under this scope calls it; the session that it works with is recorded."""
        return self._recorded(caller, function, lambda recording: self.scope.bind(recording, session))

    def without_session(self, caller: str, function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        """A model function as code calls it that forgets the session."""

        def bind(recording: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
            if isinstance(self.scope, Explicit):
                return recording  # type: ignore[return-value]  # that is the mistake
            return self.scope.bind(recording, None)  # type: ignore[arg-type]

        return self._recorded(caller, function, bind)

    def recorded(self, caller: str, function: Callable[..., R]) -> Callable[..., R]:
        """A model function that is called with its session, which is recorded."""
        return self._recorded(caller, function, lambda recording: recording)

    async def verdict(self) -> Verdict:
        """Wait until everything is over, collect what it left, and judge."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SETTLE_S)
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self.evidence.errors.append(("a task", error))
        self._tasks.clear()
        await self._idle()
        self.evidence.connections_out = self.column.connections_out()
        self.evidence.registered = registered(self.scope)
        self.evidence.rows = [
            text for entry_id, text in self._committed() if entry_id not in self._rows_before
        ]
        self.evidence.forget_frames()
        if self.column.collects:
            gc.collect()
        self.evidence.connections_kept = self.column.connections_out()
        return judge(self.evidence)

    async def _idle(self) -> None:
        give_up_at = asyncio.get_running_loop().time() + SETTLE_S
        while self.under_way and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110  # by no event
            await asyncio.sleep(LOOK_S)
        await self.column.idle(SETTLE_S)

    # -- what is recorded

    def _recorded(
        self,
        caller: str,
        function: Callable[..., R],
        bind: Callable[[Callable[Concatenate[Session, P], R]], Callable[P, R]],
    ) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            text = kwargs.get("text")
            record = ModelCall(caller, function.__name__, text if isinstance(text, str) else None)
            self.evidence.calls.append(record)

            def recording(session: Session, /, *rest: P.args, **options: P.kwargs) -> R:
                self._record(record, session)
                return function(session, *rest, **options)

            try:
                result = bind(recording)(*args, **kwargs)
            except BaseException as error:
                record.error = error
                raise
            if function is list_entries:
                entries: Any = result
                record.saw = sorted(each.text for each in entries if each.id not in self._rows_before)
            return result

        return call

    def _record(self, record: ModelCall, session: Session) -> None:
        # A proxy is asked for its session as any use of it would ask.
        asked: object = session
        found: Session = asked() if isinstance(asked, scoped_session) else session
        known = self._known(found)
        record.owner = known.owner
        record.session = known.number
        if type(found) is SettledSession or known.ended:
            record.found = Found.SETTLED
        elif known.owner is None and found in self.scope.made:
            record.found = Found.MADE_UP
        elif known.owner in (None, record.caller):
            record.found = Found.OWN
        else:
            record.found = Found.ANOTHERS
        own = _run.get(None)
        if own is not None:
            own.add(known.number)
            record.shared = any(known.number in other for other in [*self._runs.values()] if other is not own)

    def _known(self, session: Session) -> _Known:
        known = self._sessions.get(session)
        if known is None:
            known = self._sessions[session] = _Known(next(self._numbers))
        return known

    def _committed(self) -> list[tuple[str, str]]:
        """The committed rows, ids and texts: through no session, and not through the writer."""
        with self._reader.connect() as connection:
            return [(row.id, row.text) for row in connection.execute(select(Entry.id, Entry.text))]


_run: contextvars.ContextVar[set[int]] = contextvars.ContextVar("onfinish_compare_run")
"""The sessions that the function under way in ``run`` has used, by number."""

POOL_SIZE = 5

_BACKLOG = 512
"""As many connections as one scenario opens at once; of more than Tornado's 128 the kernel drops some, and
their clients begin again a second later."""

_LIMITS = {
    "pool_size": POOL_SIZE,
    "reader_pool_size": 5,
    # What waits for something that never comes back is to be over soon.
    "busy_timeout_s": 0.5,
    "lock_timeout_s": 0.5,
    "statement_timeout_s": 5.0,
}


if TYPE_CHECKING:

    class _Handler(RequestHandler):
        """What the handlers of all columns have."""

        @property
        def session(self) -> Session:
            """The request's session."""

        async def run(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
            """Call a function off the event loop."""

        def in_new_transaction(self, function: Callable[..., object], /, **kwargs: Any) -> None:
            """Call a model function in a transaction of its own."""

else:
    _Handler = RequestHandler


class Probe(_Handler):
    """A handler of a scenario; the column's handler is its other base. Lives as long as one attempt."""

    world: ClassVar[World]

    timeout_s: float | None = None

    def prepare(self) -> Any:
        """As the column's; the session's owner is recorded."""
        result = super().prepare()
        self._own = self.session
        self.world.owns(self._own, self.caller)
        self.world.happened(f"{self.caller} begins")
        return result

    def on_finish(self) -> None:
        """As the column's; a session that it closes is recorded as ended."""
        try:
            super().on_finish()
        finally:
            if not self.world.column.guarded and hasattr(self, "_own"):
                self.world.ended(self._own)

    @property
    def caller(self) -> str:
        """The request's name."""
        return self.get_query_argument("caller")

    def model(self, function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        """A model function as this handler calls it."""
        return self.world.model(self.caller, function, self.session)

    def run(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R]:
        """As the column's; two that work in one session at once are recorded."""
        return super().run(self.world.watched(function), *args, **kwargs)

    async def last_too_long(self) -> None:
        """Work that is cancelled at ``timeout_s``: by the kernel, or where it limits none, by the method."""
        if self.world.column.guarded:
            await asyncio.sleep(ANSWER_S)
        else:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await asyncio.sleep(ANSWER_S)
            except TimeoutError:
                raise Meant("too late", 504) from None

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record what is raised as evidence, unless the scenario raises it itself."""
        if value is not None and not isinstance(value, Meant):
            self.world.evidence.errors.append((self.caller, value))
        super().log_exception(typ, value, tb)

    async def _execute(self, *args: Any, **kwargs: Any) -> None:
        self.world.under_way += 1
        try:
            await super()._execute(*args, **kwargs)
        finally:
            self.world.under_way -= 1


class Meant(HTTPError):
    """Raised by a scenario, where a request is to fail."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(status, reason)
