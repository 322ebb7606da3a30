"""Tornado handlers: the life of a request's session, and the board's calls on top of it."""

from __future__ import annotations

from handlers.access_log import log_request
from handlers.base import SessionHandler
from handlers.errors import Problem
from handlers.problem import NotFoundHandler, ProblemHandler

__all__ = ["NotFoundHandler", "Problem", "ProblemHandler", "SessionHandler", "log_request"]
