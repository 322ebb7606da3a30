"""The world of one scenario: handlers under one scope, on a real socket and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import QueuePool
from tornado.httpserver import HTTPServer
from tornado.routing import URLSpec
from tornado.testing import bind_unused_port
from tornado.web import RequestHandler
from tornado.websocket import WebSocketClientConnection, websocket_connect

from conf import DatabaseSettings
from db import Database
from db.scope import SCOPES, Scope
from db.work.session import SettledSession
from handlers.json_api.api import ApiHandler
from handlers.scoped import ScopedHandler
from server.compare.handlers import application, registered
from server.compare.model import Entry
from server.compare.verdicts import Evidence, Found, ModelCall, Verdict, judge
from server.compare.wire import Wire

P = ParamSpec("P")
R = TypeVar("R")

SETTLE_S = 2.0
"""How long requests and tasks may take to end once the scenario is over."""

ANSWER_S = 40.0


class World:
    """One application under one scope. Lives as long as one scenario, which its ``async with`` block runs.

    Args:
        settings: of a scratch database.
        scope_name: which scope.
        pool_timeout_s: how long a slot or a connection is waited for.
    """

    def __init__(self, settings: DatabaseSettings, scope_name: str, *, pool_timeout_s: float = 0.5) -> None:
        self.settings = settings.model_copy(update={**_LIMITS, "pool_timeout_s": pool_timeout_s})
        self.scope_name = scope_name
        self.evidence = Evidence()
        self.database = Database(self.settings)
        self.scope: Scope = SCOPES[scope_name](self.database.writer.engine)
        self._sessions: dict[int, tuple[Session, str | None]] = {}
        self._events: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[object]] = []
        self._servers: list[HTTPServer] = []
        self._sockets: list[WebSocketClientConnection] = []
        self._wires: list[Wire] = []
        self._databases = [self.database]
        self.port = 0

    async def __aenter__(self) -> Self:
        self._rows_before = {entry_id for entry_id, _ in self._committed()}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        for database in self._databases:
            await database.idle(SETTLE_S)
        self.scope.close()
        for database in self._databases:
            await database.close(grace_s=SETTLE_S)
        self._sessions.clear()

    # -- what a scenario is made of

    def mount(
        self, *handlers: type[RequestHandler], database: Database | None = None, path: str = "/scenario"
    ) -> int:
        """Serve an application with these handlers, each put under the scope; returns the port."""
        bound = [
            URLSpec(
                f"{path}{number or ''}",
                type(handler.__name__, (handler,), {"scope": self.scope, "world": self}),
            )
            for number, handler in enumerate(handlers)
        ]
        server = HTTPServer(application(database or self.database, bound))
        listening, port = bind_unused_port()
        server.add_socket(listening)
        self._servers.append(server)
        self.port = self.port or port
        return port

    def another_database(self) -> Database:
        """A second `Database`, as another application in the same process has it."""
        database = Database(self.settings)
        self._databases.append(database)
        return database

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

    def expect(self, *, kept: str | set[str] = "", undone: str | set[str] = "") -> None:
        """Name the rows that have to be in the database at the end, and those that must not."""
        self.evidence.to_be_kept |= {kept} - {""} if isinstance(kept, str) else kept
        self.evidence.to_be_undone |= {undone} - {""} if isinstance(undone, str) else undone

    def owns(self, session: Session, caller: str) -> None:
        """Record the owner of a session."""
        self._sessions[id(session)] = (session, caller)

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
            if self.scope_name == "explicit":
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
        for database in self._databases:
            await database.idle(SETTLE_S)
        pools = [endpoint.engine.pool for each in self._databases for endpoint in (each.writer, each.reader)]
        self.evidence.connections_out = sum(
            pool.checkedout() for pool in pools if isinstance(pool, QueuePool)
        )
        self.evidence.registered = registered(self.scope)
        self.evidence.rows = [
            text for entry_id, text in self._committed() if entry_id not in self._rows_before
        ]
        return judge(self.evidence)

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
                return bind(recording)(*args, **kwargs)
            except BaseException as error:
                record.error = error
                raise

        return call

    def _record(self, record: ModelCall, session: Session) -> None:
        # A proxy is asked for its session as any use of it would ask.
        asked: object = session
        found: Session = asked() if isinstance(asked, scoped_session) else session
        known = self._sessions.setdefault(id(found), (found, None))
        record.owner = known[1]
        record.session = [*self._sessions].index(id(found)) + 1
        if type(found) is SettledSession:
            record.found = Found.SETTLED
        elif found in self.scope.made:
            record.found = Found.MADE_UP
        elif known[1] in (None, record.caller):
            record.found = Found.OWN
        else:
            record.found = Found.ANOTHERS

    def _committed(self) -> list[tuple[str, str]]:
        """The committed rows, ids and texts: through no session, and not through the writer."""
        with self.database.reader.engine.connect() as connection:
            return [(row.id, row.text) for row in connection.execute(select(Entry.id, Entry.text))]


_LIMITS = {
    "pool_size": 5,
    "reader_pool_size": 5,
    # What waits for something that never comes back is to be over soon.
    "busy_timeout_s": 0.5,
    "lock_timeout_s": 0.5,
    "statement_timeout_s": 5.0,
}


class Probe(ScopedHandler, ApiHandler):
    """A handler of a scenario. Lives as long as one attempt at a request."""

    world: ClassVar[World]

    def prepare(self) -> Any:
        """As always; the session's owner is recorded."""
        result = super().prepare()
        self.world.owns(self.session, self.caller)
        self.world.happened(f"{self.caller} begins")
        return result

    @property
    def caller(self) -> str:
        """The request's name."""
        return self.get_query_argument("caller")

    def model(self, function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        """A model function as this handler calls it."""
        return self.world.model(self.caller, function, self.session)

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record what is raised as evidence, unless the scenario raises it itself."""
        if value is not None and not isinstance(value, Meant):
            self.world.evidence.errors.append((self.caller, value))
        super().log_exception(typ, value, tb)


class Meant(Exception):
    """Raised by a scenario, where a request is to fail."""
