"""What the pages show of one process and its database."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from tornado.httputil import HTTPServerRequest

from conf import Settings
from db import Database
from db.errors import DatabaseError
from db.health import Fault, faults_of
from handlers.json_api.errors import ProblemBody
from handlers.json_api.problem import Page
from handlers.openapi.document import About, Document
from server.edge.http import DrainingServer
from server.monitoring.ops import Ops
from server.monitoring.process import Process
from server.pages.accept import prefers_html
from server.pages.live.view import LiveView
from server.pages.requests.log import RequestLog
from server.pages.requests.view import RequestViews
from server.pages.site import POLICY, Link, Site, root_of

ANSWER_S = 1.2
"""How long a page waits for the database; then the page says that it does not answer."""

_OUTCOMES = {
    "not_applied": "Nothing of this request was kept.",
    "applied": "What the request wrote was kept: it was committed before the error.",
    "unknown": "It is not known whether what the request wrote was kept.",
}

HOME = Link("Home", "")
LIVE = Link("Live", "-/live", "what every request is doing now: its line, its SQL, who waits for whom")
REQUESTS = Link("Requests", "-/requests", "what became of the last and the worst, statement by statement")
API = Link("API", "docs", "every call, to read and to try")
COMPARE = Link("Compare", "compare", "four ways for model code to find its session: what holds, what breaks")
METRICS = Link("Metrics", "metrics", "the numbers of all processes, for Prometheus")
STATS = Link("Stats", "stats", "what each process is doing, as JSON")


class Pages:
    """What the pages show of one process and its database. Lives as long as the process.

    Args:
        database: the process's own.
        process: what is known of it.
        where: what operators see in the bar.
        records: the statements of each request are recorded.
        switch: how that is switched on, for those that miss it.
        warns: a loop of equal SELECTs is logged.
    """

    def __init__(
        self, database: Database, process: Process, *, where: str, records: bool, switch: str, warns: bool
    ) -> None:
        self.database = database
        self.process = process
        self.where = where
        self.switch = switch
        self.site = Site()
        self.live = LiveView(process, database)
        self.log = RequestLog(process.index, lambda: process.names, warns=warns)
        self.requests = RequestViews(self.log, process.peers)
        self._records = records

    def links(self, request: HTTPServerRequest, *, local: bool) -> list[Link]:
        """The links of the bar: pages that are on this port, and that this caller may see."""
        return [LIVE, REQUESTS]

    def start(self) -> None:
        """Answer the other processes, and record, until the database is closed."""
        self.live.start()
        self.requests.start()
        if self._records:
            self.log.start(self.database)
        self.database.closing.append(self.stop)

    def stop(self) -> None:
        """Record no more, and ask the database no more."""
        self.log.stop()
        self.live.stop()


@dataclass(frozen=True)
class Application:
    """What the pages show of the application.

    Args:
        about: how it introduces itself.
        document: what ``/openapi.json`` answers.
        revision: of the schema that the code expects.
    """

    about: About
    document: Document
    revision: str | None


class ServerPages(Pages):
    """The pages of the server, which has some more of them. Lives as long as its process.

    Args:
        settings: those of the service.
        database: the process's own.
        ops: its monitoring.
        application: what they show.
    """

    def __init__(self, settings: Settings, database: Database, ops: Ops, application: Application) -> None:
        processes = settings.http.processes
        of = f"{processes} processes" if processes > 1 else "1 process"
        super().__init__(
            database,
            ops,
            where=f"{settings.environment} · {of} · {settings.database.shown_url}",
            records=settings.records_requests,
            switch="ops.record_requests",
            warns=not settings.production,
        )
        self.settings = settings
        self.application = application
        self._server: DrainingServer | None = None
        self._began_at = time.monotonic()

    # -- what is where

    def links(self, request: HTTPServerRequest, *, local: bool) -> list[Link]:
        """The links of the bar: pages that are on this port, and that this caller may see."""
        if not local:
            return [HOME, LIVE, REQUESTS, METRICS, STATS]
        links = []
        is_operators = self.process.admits(request)
        if is_operators:
            links.append(HOME)
            if self.process.on_main_port:
                links += [LIVE, REQUESTS]
        if shows_docs(self.settings):
            links.append(API)
        if self.settings.compare.mount:
            links.append(COMPARE)
        if self.process.on_main_port and is_operators:
            links += [METRICS, STATS]
        return links

    # -- what they show

    async def faults(self) -> list[Fault]:
        """Why the database cannot be worked with, in `ANSWER_S` at most."""
        asked = faults_of(self.database, revision=self.application.revision)
        found = await _within(ANSWER_S, asked)
        return [Fault(f"the database does not answer within {ANSWER_S:g} s")] if found is None else found

    async def first_step(self) -> str | None:
        """What to do with an application whose database is still empty."""
        asked = first_step_of(self.database, self.application.about)
        found: str | None = await _within(ANSWER_S, asked)
        return found

    def tiles(self) -> list[tuple[str, str, str]]:
        """Numbers of this process: value, label, class."""
        database = self.database
        tiles = [(str(len(database.open_units)), "open units of work", "")]
        for endpoint in dict.fromkeys((database.writer, database.reader)):
            limiter = endpoint.limiter
            full = "warn" if limiter.waiting else ""
            tiles.append((f"{limiter.taken} of {limiter.size}", f"slots of the {limiter.name} in use", full))
        if self._server is not None:
            tiles.append((str(self._server.busy), "requests in flight", ""))
        tiles.append((_duration(time.monotonic() - self._began_at), "up", ""))
        return tiles

    def with_bar(self, request: HTTPServerRequest, page: bytes, current: str) -> bytes:
        """A page that was made elsewhere, with the bar at its top; see `Site.with_bar`."""
        links = self.links(request, local=True)
        return self.site.with_bar(page, root=root_of(request.path), links=links, current=current)

    def error_page(self, request: HTTPServerRequest, problem: ProblemBody) -> Page | None:
        """The page of an error, for a browser that opens a page; see `ErrorPage`."""
        if not prefers_html(request.headers.get("Accept", "")):
            return None
        is_kept = self.log.is_recording and self.process.on_main_port and self.process.admits(request)
        body = self.site.render(
            "error.html",
            root=root_of(request.path),
            timeline=f"{REQUESTS.path}/{problem['request_id']}" if is_kept else "",
            problem=problem,
            method=request.method,
            outcome=_OUTCOMES.get(problem["outcome"], problem["outcome"]),
            links=self.links(request, local=True),
            current="",
            where="",
        )
        return Page(body, POLICY)

    def serve(self, server: DrainingServer) -> None:
        """The process is about to serve."""
        self.start()
        self._server = server
        self._began_at = time.monotonic()


def addresses(settings: Settings, *, main: str, ops: str | None) -> list[tuple[str, str]]:
    """The addresses of the pages that a browser can open, each with what is there.

    Args:
        main: the address of the main port, with a slash at the end.
        ops: that of ``ops.port``, where there is one.
    """
    found = []
    if not settings.production:
        found.append((main, "home"))
        if ops is None:
            found += [(main + each.path, each.about) for each in (LIVE, REQUESTS)]
    if shows_docs(settings):
        found.append((main + API.path, API.about))
    if settings.compare.mount:
        found.append((main + COMPARE.path, COMPARE.about))
    if ops is not None:
        found += [(ops, "home, for operators"), *((ops + each.path, each.about) for each in (LIVE, REQUESTS))]
    return found


def shows_docs(settings: Settings) -> bool:
    """Whether ``/docs`` is there."""
    docs = settings.http.docs
    return not settings.production if docs is None else docs


async def first_step_of(database: Database, about: About) -> str | None:
    """The application's `About.first_step`, on the reader. None where the database cannot be asked."""
    if about.first_step is None:
        return None
    deadline_at = time.monotonic() + ANSWER_S
    try:
        async with database.unit_of_work(label="first step", read_only=True, deadline_at=deadline_at) as unit:
            return await unit.run(about.first_step, unit.session)
    except DatabaseError:
        return None


_late: set[asyncio.Future[Any]] = set()
"""Questions that were not answered in time, until they end."""


async def _within(limit_s: float, question: Any) -> Any:
    """The answer to a question; None where it takes longer. The question runs on, and ends by itself."""
    task = asyncio.ensure_future(question)
    await asyncio.wait([task], timeout=limit_s)
    if task.done():
        return task.result()
    _late.add(task)
    task.add_done_callback(_late.discard)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return None


def _duration(seconds: float) -> str:
    """A time as one reads it: ``12 s``, ``3 min``, ``4.5 h``, ``2.1 days``."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86400:.1f} days"
