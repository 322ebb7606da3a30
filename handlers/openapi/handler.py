"""``/openapi.json``."""

from __future__ import annotations

from typing import Any

from handlers.json_api.problem import ProblemHandler
from handlers.json_api.security_headers import REVALIDATED
from handlers.openapi.document import Document
from handlers.openapi.operation import OPERATION, operation, revalidated

PATH = "/openapi.json"


class OpenApiHandler(ProblemHandler):
    """``/openapi.json``. Lives as long as one request.

    The application's settings: ``openapi``, the `Document`.
    """

    @operation(
        name="get_openapi",
        tag=OPERATION,
        summary="This document",
        answers=revalidated(
            "OpenAPI 3.1.",
            dict[str, Any],
            {"openapi": "3.1.1", "info": {"title": "onfinish", "version": "0.1.0"}, "paths": {}},
        ),
    )
    async def get(self) -> None:
        openapi: Document = self.settings["openapi"]
        document = await openapi.made()
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", REVALIDATED)
        self.set_header("ETag", document.etag)
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.finish(document.body)
