"""Requests to an application that is watched, and what was seen of them, as JSON.

``python -m tests.examples.recipes.watched sentry|opentelemetry URL``: both patch Tornado for good.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from conf import DatabaseSettings
from db import Database

ROW = "jane@example.org"
WORDS = (ROW, ROW, f"?{ROW}")
"""A note that is kept, one that a constraint refuses, and one whose handler is at fault."""


def watched_by_sentry(database: Database) -> Callable[[], Any]:
    from sentry_sdk.transport import Transport

    from tests.examples.recipes import sentry

    seen: list[Any] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            seen.extend(each.payload.json for each in envelope.items)

    sentry.watch(database, "http://key@127.0.0.1:9/1", transport=Kept)
    return lambda: seen


def watched_by_opentelemetry(database: Database) -> Callable[[], Any]:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tests.examples.recipes import opentelemetry

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    opentelemetry.watch(database)
    return lambda: [json.loads(span.to_json()) for span in exporter.get_finished_spans()]


async def main(by: str, url: str) -> None:
    database = Database(DatabaseSettings(url=url))
    seen = {"sentry": watched_by_sentry, "opentelemetry": watched_by_opentelemetry}[by](database)
    server = HTTPServer(importlib.import_module(f"tests.examples.recipes.{by}").make_app(database))
    socket, port = bind_unused_port()
    server.add_socket(socket)
    answers = []
    for number, words in enumerate(WORDS):
        answers.append(
            await AsyncHTTPClient().fetch(
                f"http://127.0.0.1:{port}/notes",
                method="POST",
                body=urlencode({"words": words}),
                headers={"X-Request-Id": f"request-{number}"},
                raise_error=False,
            )
        )
    server.stop()
    await server.close_all_connections()
    await database.close()
    print(json.dumps({"statuses": [answer.code for answer in answers], "seen": seen()}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
