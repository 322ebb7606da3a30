"""The pages of an application of one's own, which has a `Database` and no server of ours."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tornado.routing import PathMatches, Rule
from tornado.web import Application, RequestHandler

from conf import OpsSettings
from db import Database
from server.monitoring.process import Process
from server.monitoring.route_names import RouteNames
from server.pages.pages import Pages
from server.pages.routes import arguments_of, assets, log_function, routes_of


def pages_for(
    database: Database,
    *,
    hosts: Collection[str] = (),
    token: str | None = None,
    record: bool | None = None,
) -> list[Rule]:
    """``/-/live`` and ``/-/requests`` of an application of one's own, among its routes::

        Application([*routes, *pages_for(database)], database=database)

    To be called before the first request, and in the process that serves: after a fork. The pages show this
    process alone, and end with `Database.close`. Requests are kept that this very application answers.

    Args:
        database: the application's setting ``database``; those of ``databases`` are shown in ``/-/live``.
        hosts: that the request of an operator may name besides ``localhost``, ``127.0.0.1`` and ``[::1]``.
        token: without one, operators are callers on loopback that no proxy stands before. With one, they are
            the callers that send ``Authorization: Bearer <token>``, from wherever. All others find nothing
            (404).
        record: record the statements of each request; None: where there is no token.

    Raises:
        ValueError: the token is empty, or a host is none.
    """
    if token == "":
        raise ValueError("pages_for(token=''): an empty token would protect nothing; None is for none")
    record = token is None if record is None else record
    process = Process(hosts=OpsSettings(hosts=tuple(hosts)).hosts, token=token)
    database.observe(process.metrics)
    pages = Pages(
        database,
        process,
        where=database.settings.shown_url,
        records=record,
        switch="pages_for(…, record=True)",
        warns=token is None,
    )
    pages.start()
    return [_PagesRule(pages)]


class _PagesRule(Rule):
    """Where the pages are served. Lives as long as its application, from which requests are kept.

    Tornado replaces a target that is a list of rules by a router of the application, when that is made. There
    is no other call by which a rule learns of its application before a request has come to it.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        arguments = arguments_of(pages, local=True)
        super().__init__(PathMatches(r"/-/.*"), [*routes_of(arguments), assets(arguments)])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        application = getattr(value, "application", None)
        if name == "target" and isinstance(application, Application):
            self._keep_requests(application)

    def _keep_requests(self, application: Application) -> None:
        pages, process = self._pages, self._pages.process
        sampler = process.sampler(pages.database)
        pages.live.look.others = application.settings.get("databases", {})
        keep = log_function(pages.log, application.log_request)

        def first(handler: RequestHandler) -> None:
            """The application is complete now, and the event loop runs."""
            application.log_request = keep  # type: ignore[assignment, method-assign]
            process.names = RouteNames.of(application)
            sampler.start()
            keep(handler)

        application.log_request = first  # type: ignore[method-assign]
