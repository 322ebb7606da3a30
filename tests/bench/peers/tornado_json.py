"""What the peers on Tornado share: bodies and queries read and checked, errors and answers in JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from tests.bench.peers.contract import json_text

BODY_MAX_BYTES = 8 << 20

AnyModel = TypeVar("AnyModel", bound=BaseModel)


class JsonHandler(RequestHandler):
    """A handler that speaks JSON. Lives as long as its request."""

    def body(self, model: type[AnyModel]) -> AnyModel:
        """The request's body, checked."""
        try:
            return model.model_validate(json.loads(self.request.body))
        except ValidationError as error:
            raise HTTPError(422, str(error)) from None
        except ValueError as error:
            raise HTTPError(400, str(error)) from None

    def query(self, model: type[AnyModel]) -> AnyModel:
        """The request's query arguments, checked."""
        arguments = {name: values[-1].decode() for name, values in self.request.query_arguments.items()}
        try:
            return model.model_validate(arguments)
        except ValidationError as error:
            raise HTTPError(422, str(error)) from None

    def answer(self, value: Any, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json_text(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell an error as JSON."""
        self.answer({"title": self._reason}, status_code)

    def compute_etag(self) -> str | None:
        """None: Tornado would hash each answer, and no other peer does."""
        return None


def serve(make: Callable[[], Coroutine[Any, Any, Application]]) -> None:
    """Serve an application on the environment's ``PORT``, and ``EVENT_LOOP``, until the process is killed."""

    async def main() -> None:
        application = await make()
        application.settings["log_function"] = lambda handler: None
        server = HTTPServer(application, max_buffer_size=BODY_MAX_BYTES)
        server.listen(int(os.environ["PORT"]), "127.0.0.1")
        await asyncio.Event().wait()

    factory = None
    if os.environ.get("EVENT_LOOP") == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
