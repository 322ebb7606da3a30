"""OpenTelemetry: a span for each request, and in it one for each statement and for COMMIT."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.tornado import TornadoInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from tornado.web import Application

from db import Database
from handlers import ApiHandler
from tests.examples.recipes import notes

tracer = trace.get_tracer("notes")


def watch(database: Database) -> None:
    TornadoInstrumentor().instrument()
    for endpoint in (database.writer, database.reader):
        dialect = endpoint.engine.dialect
        for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
            setattr(dialect, name, in_span(getattr(dialect, name)))


def in_span(do: Callable[..., None]) -> Callable[..., None]:
    """The span has the SQL, and of an error its class: parameters and the driver's message are rows' data."""

    def do_in_span(connection: Any, sql: str = "COMMIT", *arguments: Any) -> None:
        span = tracer.start_span(sql.split(maxsplit=1)[0], kind=SpanKind.CLIENT)
        span.set_attribute("db.query.text", sql)
        try:
            do(connection, *([] if sql == "COMMIT" else [sql]), *arguments)
        except Exception as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    return do_in_span


class WatchedHandler(ApiHandler):
    async def prepare(self) -> None:
        await super().prepare()
        trace.get_current_span().set_attribute("request_id", self.request_id)


class NotesHandler(WatchedHandler):
    async def post(self) -> None:
        words = self.get_body_argument("words")
        if words.startswith("?"):
            await self.run(notes.misspell, self.session, words=words)
        self.write_json(await self.run(notes.create_note, self.session, words=words), 201)


def make_app(database: Database) -> Application:
    return Application([("/notes", NotesHandler)], database=database)
