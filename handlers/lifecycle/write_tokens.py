"""The tokens of writes in requests and responses, so that a client reads what it has written.

https://www.bailis.org/papers/hat-vldb2014.pdf calls it read your writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from db import Database
from db.written import WriteTokens, Written
from handlers.lifecycle.errors import Problem

WROTE = "Wrote"
READ_AFTER = "Read-After"
LOST = "Write-Lost"
COOKIE = "onfinish_wrote"

Put = Callable[[str, str], None]

TOKENS_MAX = 16
MALFORMED = (
    f"{READ_AFTER} is a list of 1 to {TOKENS_MAX} tokens, each as a header {WROTE} of this service had it"
)


class Answered(Protocol):
    """What a response is to tell of, a `RequestAttempts`."""

    application: Application
    request: HTTPServerRequest
    written: Written | None
    lost_write: bool


def writes_to_see(
    request: HTTPServerRequest, settings: Mapping[str, Any], tokens: WriteTokens
) -> Sequence[Written]:
    """The writes that a read has to show, by its header, or else by its cookie.

    A cookie that cannot be read is ignored: no page could do anything about it.

    Raises:
        Problem: 400, the header is no list of tokens that were made with a key of this service.
    """
    given = request.headers.get(READ_AFTER)
    if given is None:
        cookie = request.cookies.get(COOKIE) if settings.get("write_cookie_s") else None
        written = None if cookie is None else tokens.read(cookie.value)
        return () if written is None else (written,)
    # Of a list, some empty elements are ignored: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
    named = [token for each in given.split(",", 2 * TOKENS_MAX) if (token := each.strip())]
    if 0 < len(named) <= TOKENS_MAX:  # before they are read: each is a computation
        known = [written for token in named if (written := tokens.read(token)) is not None]
        if len(known) == len(named):
            return known
    raise Problem(400, MALFORMED)


def tell_writes(answered: Answered, put: Put, add: Put) -> None:
    """Tell of what was written, and whether a write was lost, whose cookie is of no use any more.

    Args:
        put: sets a header of the response.
        add: adds one to others of its name.
    """
    settings, request = answered.application.settings, answered.request
    database: Database = settings["database"]
    life_s, token = settings.get("write_cookie_s"), ""
    if answered.lost_write:
        put(LOST, "1")
        put("Cache-Control", "no-store")  # a cache would tell it to other clients, or again
    if answered.written is not None and database.write_tokens is not None:
        token = database.write_tokens.token_of(answered.written)
        put(WROTE, token)
    if life_s and (token or READ_AFTER not in request.headers):  # else it is another write's
        secure = "; Secure" if request.protocol == "https" else ""
        life = f"Max-Age={life_s if token else 0}; Path=/; HttpOnly; SameSite=Lax{secure}"
        add("Set-Cookie", f"{COOKIE}={token}; {life}")
