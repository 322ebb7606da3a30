"""Tornado handlers: the life of a request's session, and the board's calls on top of it."""

from __future__ import annotations

from handlers.access_log import log_request
from handlers.base import SessionHandler
from handlers.json_api.errors import Problem
from handlers.json_api.problem import NotFoundHandler, ProblemHandler
from handlers.websocket import SessionWebSocketHandler

__all__ = [
    "NotFoundHandler",
    "Problem",
    "ProblemHandler",
    "SessionHandler",
    "SessionWebSocketHandler",
    "log_request",
]
