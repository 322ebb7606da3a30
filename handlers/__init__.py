"""Tornado handlers whose request is one transaction, and a face for JSON APIs."""

from __future__ import annotations

from handlers.access_log import log_request
from handlers.base import SessionHandler
from handlers.idempotency import IdempotentHandler
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import Body, read_body
from handlers.json_api.problem import NotFoundHandler, ProblemHandler
from handlers.json_api.query import Query, read_query
from handlers.lifecycle.errors import Problem
from handlers.openapi.operation import Answer, PathParameter, Tag, operation
from handlers.scoped import ContextvarHandler, ContextvarWebSocketHandler
from handlers.websocket import SessionWebSocketHandler

__all__ = [
    "Answer",
    "ApiHandler",
    "Body",
    "ContextvarHandler",
    "ContextvarWebSocketHandler",
    "IdempotentHandler",
    "NotFoundHandler",
    "PathParameter",
    "Problem",
    "ProblemHandler",
    "Query",
    "SessionHandler",
    "SessionWebSocketHandler",
    "Tag",
    "log_request",
    "operation",
    "read_body",
    "read_query",
]
