"""The handlers of the pages."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.web import HTTPError

from conf.program import COMMAND
from server.monitoring.ops import OpsHandler
from server.pages.accept import prefers_html
from server.pages.clock import clock, zone
from server.pages.docs import code, groups_of, paragraphs
from server.pages.live.rows import seconds
from server.pages.live.text import text_of
from server.pages.pages import Pages, ServerPages
from server.pages.requests.timeline import milliseconds, tracks_of
from server.pages.site import POLICY, root_of

_YOUNG_S = 0.1
"""Units that are younger than this come and go while they are read: they are counted, unless they wait."""

_SPANS_MAX = 5
"""So many of the times at which a pool was full are on the page; all of them are in its other forms."""

_KINDS = {"kept": "good", "undone": "", "unknown": "bad", "retried": "warn", "no slot in time": "bad"}

_BECAME = {
    "undone": "Nothing of this request was kept.",
    "unknown": "It is not known whether what it wrote was kept.",
}

_FOREVER = "public, max-age=31536000, immutable"


class PageHandler(OpsHandler):
    """A page. Lives as long as one request; shown to operators, see `OpsHandler`."""

    def initialize(self, ops: Any, local: bool, pages: Pages) -> None:  # type: ignore[override]
        """Take the route's arguments."""
        super().initialize(ops, local)
        self.pages = pages

    def show(self, template: str, *, current: str, **values: Any) -> None:
        """Answer with a page. The last thing a method does."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        is_operators = not self.local or self.ops.admits(self.request)
        self.finish(
            self.pages.site.render(
                template,
                root=root_of(self.request.path),
                links=self.pages.links(self.request, local=self.local),
                current=current,
                where=self.pages.where if is_operators else "",
                **values,
            )
        )


class QuietHandler(PageHandler):
    """What an open page loads by itself: it has no access line, except for an error."""


class HomeHandler(PageHandler):
    """``/``: a page for browsers. For any other client, and any other method, there is nothing here: 404."""

    pages: ServerPages
    _is_shown = False

    def prepare(self) -> None:
        """Refuse all but a browser of an operator."""
        is_read = self.request.method in ("GET", "HEAD")
        self._is_shown = is_read and prefers_html(self.request.headers.get("Accept", ""))
        self._is_shown = self._is_shown and (not self.local or self.ops.admits(self.request))
        if not self._is_shown:
            self.send_error(404)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """404 wherever the page is not shown, also where Tornado refuses before `prepare`."""
        super().send_error(status_code if self._is_shown else 404, **({} if not self._is_shown else kwargs))

    async def get(self) -> None:
        """Ready or why not, the first step, the pages, numbers of this process, commands."""
        pages = self.pages
        faults, first_step = await asyncio.gather(pages.faults(), pages.first_step())
        about = pages.application.about
        self.show(
            "home.html",
            current="Home",
            title=about.title,
            summary=about.summary,
            faults=faults,
            ready="The database answers, and its schema is the one that the code expects.",
            first_step=None if faults else first_step,
            tiles=pages.tiles(),
            program=COMMAND,
            commands=_COMMANDS,
            code=code,
        )


class LiveHandler(QuietHandler):
    """``/-/live``: what every request is doing now; ``.json`` for programs, ``.txt`` for terminals."""

    async def get(self, form: str) -> None:
        """All processes; within 1.5 s, whatever hangs."""
        view = await self.pages.live.gather()
        if form == ".json":
            self.write_json(view.as_json())
        elif form == ".txt":
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(text_of(view))
        else:
            shown = [row for row in view.live.rows if row.age_s >= _YOUNG_S or row.kind != "runs"]
            self.show(
                "live.html",
                current="Live",
                view=view,
                shown=shown,
                others=view.live.open - len(shown),
                kinds=_KINDS,
                seconds=seconds,
                links_requests=self.pages.log.is_recording,
                spans_max=_SPANS_MAX,
            )


class RequestsHandler(PageHandler):
    """``/-/requests``: the last and the worst requests; ``.json`` for programs."""

    async def get(self, form: str) -> None:
        """Those of all processes, the newest first."""
        lists = await self.pages.requests.lists()
        if form:
            self.write_json(lists.as_json())
        else:
            self.show(
                "requests.html",
                current="Requests",
                lists=lists,
                switch=self.pages.switch,
                kinds=_KINDS,
                clock=clock,
                zone=zone,
                milliseconds=milliseconds,
            )


class RequestHandler(PageHandler):
    """``/-/requests/{request_id}``: what requests did, statement by statement.

    Those with an id, or with one that begins so.
    """

    async def get(self, request_id: str, form: str) -> None:
        """404 where none is kept, with the page as well: it says what is kept."""
        found = await self.pages.requests.find(request_id)
        if form:
            if not found.requests:
                raise HTTPError(404)
            self.write_json({"requests": found.requests, "more": found.more, "stuck_processes": found.stuck})
            return
        if not found.requests:
            self.set_status(404)
        self.show(
            "request.html",
            current="Requests",
            request_id=request_id,
            requests=[(each, tracks_of(each)) for each in found.requests],
            more=found.more,
            stuck=found.stuck,
            became=_BECAME,
            is_recording=self.pages.log.is_recording,
            switch=self.pages.switch,
            kinds=_KINDS,
            clock=clock,
            zone=zone,
            milliseconds=milliseconds,
            code=code,
        )


class DocsHandler(PageHandler):
    """``/docs``: the API. For every caller that may read ``/openapi.json``."""

    pages: ServerPages

    def prepare(self) -> None:
        """Refuse no caller."""

    async def get(self) -> None:
        """Every operation, to read and to try."""
        document = (await self.pages.application.document.made()).described
        self.show(
            "docs.html",
            current="API",
            title=document["info"]["title"],
            version=document["info"]["version"],
            about=document["info"].get("description", ""),
            groups=groups_of(document),
            server=f"{self.request.protocol}://{self.request.host}",
            code=code,
            paragraphs=paragraphs,
        )


class AssetHandler(QuietHandler):
    """A stylesheet, a script, the icon. They are in the repository: there is nothing to protect."""

    def prepare(self) -> None:
        """Refuse no caller."""

    def get(self, name: str) -> None:
        """The asset; kept by browsers, since its address has a hash of its content."""
        asset = self.pages.site.assets.get(name)
        if asset is None:
            raise HTTPError(404)
        self.set_header("Content-Type", asset.media_type)
        self.set_header("Cache-Control", _FOREVER)
        self.finish(asset.body)


_COMMANDS = (
    ("top", "what every request is doing now, in a terminal"),
    ("check", "whether the service can run here; each finding names its fix"),
    ("routes", "every route: what reads, what writes, deadlines, retries"),
    ("config --changed", "the settings that are not the defaults, and where each came from"),
)
