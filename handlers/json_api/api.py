"""A session handler for a JSON API: problems for errors, strict headers, CORS."""

from __future__ import annotations

from handlers.base import SessionHandler
from handlers.json_api.problem import ProblemHandler


class ApiHandler(SessionHandler, ProblemHandler):
    """A `SessionHandler` with the face of a `ProblemHandler`. Lives as long as one attempt at a request.

    With a face of one's own in place of that: ``class MyHandler(SessionHandler, MyFace)``.
    """
