"""An application that is watched by Sentry or by OpenTelemetry, and what they see of its requests, as JSON.

``python -m tests.handlers.instrumented sentry|opentelemetry URL``: both patch Tornado for good, and are
looked at in a process of their own.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, HTTPError

from conf import DatabaseSettings
from db import Database
from db.errors import NotFound, RetryableConflict
from handlers import ApiHandler, Problem, ProblemHandler, log_request
from tests.handlers.notes import NO_NOTE, add_note, list_texts

ROW = "jane@example.org"

Seen = dict[str, list[Any]]


class Kept(ApiHandler):
    async def get(self) -> None:
        self.write_json(await self.run(list_texts, self.session))

    async def post(self) -> None:
        self.write_json(await self.run(add_note, self.session, text=ROW), 201)


class Below(Kept):
    """A class below another one that is served, with hooks of its own."""

    finished = 0

    async def post(self) -> None:
        self.write_json(await self.run(add_note, self.session, text="below"), 201)

    def on_finish(self) -> None:
        Below.finished += 1
        super().on_finish()


class AtCommit(ApiHandler):
    """Refused only by COMMIT: the handler has answered 201 by then."""

    async def post(self) -> None:
        await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
        self.set_status(201)


class FaultAtCommit(ApiHandler):
    async def post(self) -> None:
        await self.run(add_note, self.session, text="never")
        self.before_commit(misspell)
        self.set_status(201)


class Again(ApiHandler):
    attempts = 0
    conflicts = 1

    async def post(self) -> None:
        type(self).attempts += 1
        await self.run(add_note, self.session, text=type(self).__name__)
        if self.attempts <= self.conflicts:
            raise RetryableConflict("deadlock")
        self.set_status(201)


class AgainInVain(Again):
    attempts = 0
    conflicts = 99


class Late(ApiHandler):
    """Is not done when its time has run out."""

    timeout_s = 0.2

    async def get(self) -> None:
        await self.run(list_texts, self.session)
        await asyncio.sleep(60)


class Streamed(ApiHandler):
    streams = True

    async def get(self) -> None:
        for each in await self.run(list_texts, self.session):
            self.write(each)
            await self.flush()


class Raises(ApiHandler):
    async def get(self, what: str) -> None:
        await self.run(list_texts, self.session)
        if what == "typo":
            await self.run(misspell, self.session)
        raise error_of(what)


class Plain(ProblemHandler):
    """Without a session."""

    def get(self, what: str) -> None:
        raise error_of(what)


def misspell(session: Session) -> None:
    session.execute(text(f"SELECT txet FROM notes WHERE text = '{ROW}'"))


def error_of(what: str) -> Exception:
    errors = {
        "422": Problem(422, "not so"),
        "missing": NotFound("note", 1),
        "404": HTTPError(404),
        "fault": KeyError("a fault of ours"),
    }
    return errors[what]


ROUTES = [
    ("/kept", Kept),
    ("/below", Below),
    ("/at_commit", AtCommit),
    ("/fault_at_commit", FaultAtCommit),
    ("/again", Again),
    ("/in_vain", AgainInVain),
    ("/late", Late),
    ("/streamed", Streamed),
    (r"/raises/(\w+)", Raises),
    (r"/plain/(\w+)", Plain),
]

REQUESTS = [
    "GET /kept",
    "POST /kept",
    "POST /kept",  # the second of the same is refused by a constraint
    "POST /below",
    "POST /at_commit",
    "POST /fault_at_commit",
    "POST /again",
    "POST /in_vain",
    "GET /late",
    "GET /streamed",
    "BREW /kept",
    *(f"GET /raises/{what}" for what in ("422", "missing", "404", "fault", "typo")),
    *(f"GET /plain/{what}" for what in ("422", "missing", "404", "fault")),
    "GET /nowhere",
]


def watched_by_sentry() -> Callable[[], Seen]:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    events: list[Any] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            events.extend(each.payload.json for each in envelope.items if each.type == "event")

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Kept)
    return lambda: {"events": events}


def watched_by_opentelemetry() -> Callable[[], Seen]:
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.tornado import TornadoInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider, reader = InMemorySpanExporter(), TracerProvider(), InMemoryMetricReader()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    TornadoInstrumentor().instrument()

    def seen() -> Seen:
        spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
        data = reader.get_metrics_data()
        return {"spans": spans, "metrics": [] if data is None else [json.loads(data.to_json())]}

    return seen


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.name}: {self.format(record)}")


async def ask(url: str) -> list[int]:
    """Send the requests to a server here; the statuses that were read."""
    database = Database(DatabaseSettings(url=url))
    server = HTTPServer(Application(ROUTES, database=database, log_function=log_request))
    socket, port = bind_unused_port()
    server.add_socket(socket)

    def read(request: str) -> int:
        method, path = request.split()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, headers={"Content-Length": "0"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    try:
        return [await asyncio.to_thread(read, request) for request in REQUESTS]
    finally:
        server.stop()
        await server.close_all_connections()
        await database.close()


def main(by: str, url: str) -> None:
    seen = {"sentry": watched_by_sentry, "opentelemetry": watched_by_opentelemetry}[by]()
    errors = Errors()
    logging.getLogger().addHandler(errors)
    statuses = asyncio.run(ask(url))
    print(json.dumps({"statuses": statuses, "errors": errors.seen, "finished": Below.finished, **seen()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
