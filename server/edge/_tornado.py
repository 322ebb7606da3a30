"""Private names of Tornado that the server relies on, each with its reason. A test fails when one goes."""

from __future__ import annotations

from types import CodeType
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler

EXECUTE: CodeType = RequestHandler._execute.__code__
"""The coroutine that runs a handler: in a request's stack, all calls below it are the event loop's."""


def disconnect_after_response(connection: object) -> None:
    """Close a connection when the response under way has been sent, with ``Connection: close`` in it.

    Tornado decides that when the headers of a request arrive, from `conn_params`; this is its copy for one
    connection, to which there is no public way.
    """
    cast(HTTP1Connection, connection)._disconnect_on_finish = True
