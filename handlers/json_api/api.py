"""A session handler for a JSON API: problems for errors, strict headers, CORS."""

from __future__ import annotations

from typing import ClassVar

from tornado.web import Application

from db.errors import PoolTimeout
from handlers.base import SessionHandler
from handlers.json_api.problem import ProblemHandler


class ApiHandler(SessionHandler, ProblemHandler):
    """A `SessionHandler` with the face of a `ProblemHandler`. Lives as long as one attempt at a request.

    With a face of one's own in place of that: ``class MyHandler(SessionHandler, MyFace)``.
    """

    refused_early: ClassVar[bool] = False
    """Whether a request that its pool does not admit is refused before it has a handler, for less than half
    of the CPU: without `prepare`, `write_error` and the like. For handlers that always use the session."""

    @classmethod
    def refusal(cls, application: Application, method: str) -> PoolTimeout | None:
        """Why the server refuses a request before it has a handler, and counts it as refused; else None.

        Asked where a class is `refused_early`.
        """
        if method == "OPTIONS":  # it has no session
            return None
        database = application.settings["database"]
        reads = method in ("GET", "HEAD") if cls.read_only is None else cls.read_only
        endpoint = database.reader if reads else database.writer
        refusal: PoolTimeout | None = endpoint.limiter.refusal(database.settings.pool_timeout_s)
        return refusal
