"""The world of one scenario: the real application under one scope, on a real socket and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from datetime import date
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import QueuePool
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import RequestHandler
from tornado.websocket import WebSocketClientConnection, websocket_connect

from conf import DatabaseSettings, Settings
from db import Database
from db.board import tasks
from db.board.tasks import NewTask, Task
from db.scope import SCOPES, Registry, Scope
from db.work.unit_of_work import SettledSession
from handlers.scoped import ScopedHandler
from server.app import make_app
from server.compare.verdicts import Evidence, Found, Sighting, Verdict, judge
from server.compare.wire import Wire

P = ParamSpec("P")
R = TypeVar("R")

SETTLE_S = 2.0
"""How long requests and tasks may take to end once the scenario is over."""

ANSWER_S = 40.0


def put(session: Session, *, text: str) -> None:
    """A model function without SQL of its own: allowed on the loop. The row goes out with the commit."""
    session.add(Task(**new_row(text)))


def write(session: Session, *, text: str) -> None:
    """A model function that writes at once, as the board's."""
    tasks.create_task(session, new=new_row(text))


def read(session: Session) -> list[str]:
    """A model function that reads: the texts of all rows that its transaction sees."""
    return list(session.scalars(select(Task.bundle)))


def new_row(text: str) -> NewTask:
    """A task that is told from others by its bundle."""
    return NewTask(bundle=text, granularity="daily", target_date=date(2020, 4, 1), change_id=3)


class World:
    """One application under one scope. Lives as long as one scenario, which its ``async with`` block runs.

    Args:
        settings: of a migrated database.
        scope_name: which scope.
        pool_timeout_s: how long a place or a connection is waited for.
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
        self._rows_before = {task_id for task_id, _ in self._look()}
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
        """Serve the board's application with these handlers beside its own; returns the port."""
        database = database or self.database
        application = make_app(Settings(environment="testing", database=self.settings), database)
        bound = [
            (
                f"{path}{number or ''}",
                type(handler.__name__, (handler,), {"scope": self.scope, "world": self}),
            )
            for number, handler in enumerate(handlers)
        ]
        application.add_handlers(".*", list(bound))
        server = HTTPServer(application)
        listening, port = bind_unused_port()
        server.add_socket(listening)
        self._servers.append(server)
        self.port = self.port or port
        return port

    def another_database(self) -> Database:
        """A second one, as another application in the same process has it."""
        database = Database(self.settings)
        self._databases.append(database)
        return database

    async def post(self, who: str = "A", *, port: int = 0, path: str = "/scenario", body: bytes = b"") -> int:
        """Send a request on behalf of somebody; returns the status, 599 where there was no answer."""
        wire = await self.connect(port)
        wire.send(f"{path}?who={who}", body=body)
        code = (await wire.answer(ANSWER_S)).status
        wire.leave()
        self.evidence.answers.append((who, code))
        return code

    async def connect(self, port: int = 0) -> Wire:
        """A connection to write bytes to, and to leave."""
        wire = await Wire.to(port or self.port)
        self._wires.append(wire)
        return wire

    async def websocket(self, who: str) -> WebSocketClientConnection:
        """An open WebSocket."""
        connection = await websocket_connect(f"ws://127.0.0.1:{self.port}/scenario?who={who}")
        self._sockets.append(connection)
        return connection

    def event(self, name: str) -> asyncio.Event:
        """Something that happens, by its name."""
        return self._events.setdefault(name, asyncio.Event())

    def happened(self, name: str) -> None:
        """Say that it happened."""
        self.event(name).set()

    async def until(self, *names: str) -> None:
        """Wait until all of it has happened."""
        for name in names:
            await self.event(name).wait()

    def begin(self, work: Coroutine[Any, Any, object], *, clean: bool = False) -> asyncio.Task[object]:
        """Begin a task that nobody awaits; the world waits for it at its end.

        Args:
            clean: in a context of its own, as at the start of the program.
        """
        context = contextvars.Context() if clean else None
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.append(task)
        return task

    def expect(self, *, kept: str | set[str] = "", undone: str | set[str] = "") -> None:
        """What has to be in the database at the end, and what must not."""
        self.evidence.to_be_kept |= {kept} - {""} if isinstance(kept, str) else kept
        self.evidence.to_be_undone |= {undone} - {""} if isinstance(undone, str) else undone

    def owns(self, session: Session, who: str) -> None:
        """Say whose session it is."""
        self._sessions[id(session)] = (session, who)

    @contextlib.contextmanager
    def noticing(self, who: str) -> Iterator[None]:
        """What is raised in the block is evidence, and ends there."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, it is judged
            self.evidence.errors.append((who, error))

    def model(
        self, who: str, function: Callable[Concatenate[Session, P], R], session: Session
    ) -> Callable[P, R]:
        """A model function as code under this scope calls it; which session it works with is noted."""
        return self._noted(who, function, lambda noting: self.scope.bind(noting, session))

    def forgetful(self, who: str, function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        """A model function as somebody calls it who forgets that it needs a session."""

        def bind(noting: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
            if self.scope_name == "explicit":
                return noting  # type: ignore[return-value]  # that is the mistake
            return self.scope.bind(noting, None)  # type: ignore[arg-type]

        return self._noted(who, function, bind)

    def seen(self, who: str, function: Callable[..., R]) -> Callable[..., R]:
        """A model function that is called with its session, which is noted."""
        return self._noted(who, function, lambda noting: noting)

    async def verdict(self) -> Verdict:
        """Wait until everything is over, look, and judge."""
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
        if isinstance(self.scope, Registry):
            kept = getattr(self.scope.sessions.registry, "registry", {})
            self.evidence.registered = len(kept) if isinstance(kept, dict) else 0
        self.evidence.rows = [text for task_id, text in self._look() if task_id not in self._rows_before]
        return judge(self.evidence)

    # -- what is noted

    def _noted(
        self,
        who: str,
        function: Callable[..., R],
        bind: Callable[[Callable[Concatenate[Session, P], R]], Callable[P, R]],
    ) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            text = kwargs.get("text")
            sighting = Sighting(who, function.__name__, text if isinstance(text, str) else None)
            self.evidence.sightings.append(sighting)

            def noting(session: Session, /, *rest: P.args, **options: P.kwargs) -> R:
                self._note(sighting, session)
                return function(session, *rest, **options)

            try:
                return bind(noting)(*args, **kwargs)
            except BaseException as error:
                sighting.error = error
                raise

        return call

    def _note(self, sighting: Sighting, session: Session) -> None:
        # A proxy is asked for its session as any use of it would ask.
        asked: object = session
        found: Session = asked() if isinstance(asked, scoped_session) else session
        known = self._sessions.setdefault(id(found), (found, None))
        sighting.owner = known[1]
        sighting.session = [*self._sessions].index(id(found)) + 1
        if type(found) is SettledSession:
            sighting.found = Found.SETTLED
        elif found in self.scope.made:
            sighting.found = Found.MADE_UP
        elif known[1] in (None, sighting.who):
            sighting.found = Found.OWN
        else:
            sighting.found = Found.ANOTHERS

    def _look(self) -> list[tuple[str, str]]:
        """The rows that are committed, their ids and texts: no session is asked, and no writer."""
        with self.database.reader.engine.connect() as connection:
            return [(row.id, row.bundle) for row in connection.execute(select(Task.id, Task.bundle))]


_LIMITS = {
    "pool_size": 5,
    "reader_pool_size": 5,
    # What waits for something that never comes back is to be over soon.
    "busy_timeout_s": 0.5,
    "lock_timeout_s": 0.5,
    "statement_timeout_s": 5.0,
}


class Probe(ScopedHandler):
    """A handler of a scenario. Lives as long as one attempt at a request."""

    world: ClassVar[World]

    def prepare(self) -> Any:
        """As always; whose session it is, is noted."""
        result = super().prepare()
        self.world.owns(self.session, self.who)
        self.world.happened(f"{self.who} begins")
        return result

    @property
    def who(self) -> str:
        """On whose behalf the request was sent."""
        return self.get_query_argument("who")

    def model(self, function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        """A model function as this handler calls it."""
        return self.world.model(self.who, function, self.session)

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """What is raised is evidence, unless the scenario raises it itself."""
        if value is not None and not isinstance(value, Meant):
            self.world.evidence.errors.append((self.who, value))
        super().log_exception(typ, value, tb)


class Meeting:
    """Where so many wait until all of them are there. May be held again."""

    def __init__(self, number: int) -> None:
        self._barrier = asyncio.Barrier(number)

    async def here(self) -> None:
        """One more is there."""
        await self._barrier.wait()


class Meant(Exception):
    """Raised by a scenario, where a request is to fail."""
