"""The command that lists the routes of the application."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from conf import Settings
from server.commands._backend import backend_of

if TYPE_CHECKING:
    from tornado.routing import URLSpec

SUMMARY = "list the routes: methods, handlers, what reads and what writes, deadlines, retries"


@dataclass(frozen=True)
class Row:
    """One method of one route.

    Args:
        work: "reads", "writes", "streams", or "-" where the handler has no session.
        deadline_s: None where there is none.
        retried: whether a conflict runs the request again.
    """

    method: str
    path: str
    handler: str
    work: str
    deadline_s: float | None
    retried: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON array")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the routes that a server with these settings has on its main port. Connects to nothing.

    Raises:
        SettingsError: this database is not supported.
    """
    from tornado.routing import URLSpec

    from db import Database
    from server.app import make_app
    from server.monitoring.ops import Ops

    backend_of(settings)
    database = Database(settings.database)
    try:
        application = make_app(settings, database, Ops(settings))
        rows = [
            row
            for route in application.wildcard_router.rules
            if isinstance(route, URLSpec)  # the twins of the comparison are an application of their own
            for row in _rows(route, settings.http.request_timeout_s)
        ]
    finally:
        database.dispose()
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else _table(rows))
    return 0


def _rows(route: URLSpec, timeout_s: float) -> Iterator[Row]:
    from tornado.web import RequestHandler

    from handlers import SessionHandler
    from handlers.lifecycle._tornado import has_stream_request_body
    from handlers.route_paths import path_of

    handler = route.handler_class
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        own = getattr(handler, method.lower())
        if own is getattr(RequestHandler, method.lower()):
            continue
        work, deadline_s, retried = "-", None, False
        if issubclass(handler, SessionHandler):
            reads = method == "GET" if handler.read_only is None else handler.read_only
            work = "streams" if handler.streams else "reads" if reads else "writes"
            deadline_s = handler.timeout_s
            if deadline_s is None and not handler.streams:
                deadline_s = timeout_s
            retried = handler.retry and not (handler.streams or has_stream_request_body(handler))
        yield Row(method, path_of(route), handler.__name__, work, deadline_s, retried)


def _table(rows: list[Row]) -> str:
    cells = [
        (
            row.method,
            row.path,
            row.handler,
            row.work,
            "-" if row.deadline_s is None else f"{row.deadline_s:g} s",
            "retried" if row.retried else "-",
        )
        for row in rows
    ]
    cells.insert(0, ("method", "path", "handler", "work", "deadline", "conflicts"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
