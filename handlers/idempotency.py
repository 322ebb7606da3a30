"""Requests that can be repeated without being done twice: the header ``Idempotency-Key``."""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable
from typing import Any

from sqlalchemy.orm import Session

from db import idempotency
from db.errors import DeadlinePassed, Misuse, Unavailable
from db.idempotency import KEY_CHARS_MAX, Answer, Key
from handlers.base import SessionHandler
from handlers.errors import Problem
from handlers.held_response import HeldResponse

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_KEY = re.compile(rf"[\x21-\x7e][\x20-\x7e]{{0,{KEY_CHARS_MAX - 1}}}")

_KEPT_HEADERS = ("Content-Type", "Content-Encoding", "Location", "ETag")
"""What belongs to the answer itself. The others belong to the moment it is given."""


class IdempotentHandler(SessionHandler):
    """A session handler whose POST may be repeated under one key. Lives as long as one attempt at a request.

    The key is taken in the request's own transaction, before its work, and the answer is written
    beside it just before COMMIT: there is no moment at which one is kept without the other. A request
    that is refused leaves no key, and may be sent again.
    """

    _key: Key | None = None
    _claiming = False

    def prepare(self) -> Awaitable[None] | None:
        """As `SessionHandler.prepare`; answers at once where the answer is known."""
        waiting = super().prepare()
        given = self.request.headers.get(HEADER)
        if given is None or self.request.method != "POST":
            return waiting
        if not _KEY.fullmatch(given):
            raise Problem(400, f"{HEADER} has 1 to {KEY_CHARS_MAX} printable ASCII characters")
        self._claiming = True
        return self._claim(Key.of("POST", self.request.path, given))

    async def _claim(self, key: Key) -> None:
        body = self.request.body
        answer = await self.run(idempotency.claim_key, self.session, key=key, request_body=body)
        self._claiming = False
        if answer is None:
            self._key = key
            return
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.set_header(REPLAYED, "true")
        self.set_status(answer.status)
        self.finish(answer.body)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As `SessionHandler.send_error`; who waited for a twin until the deadline may ask again."""
        if self._claiming and isinstance(self._stopped, DeadlinePassed):
            busy = Unavailable(f"the request with this {HEADER} is still under way")
            self._stopped, kwargs["exc_info"] = None, (Unavailable, busy, None)
        super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        """As `SessionHandler.on_finish`; the answer is kept with the work."""
        if self._claiming:
            self.before_commit(_refuse_unclaimed)
        held = self.request.connection
        if self._key is not None and isinstance(held, HeldResponse) and held.headers is not None:
            kept = {name: held.headers[name] for name in _KEPT_HEADERS if name in held.headers}
            body = held.body
            if kept.get("Content-Encoding") == "gzip":  # Tornado's doing: who asks again may not take it
                body = gzip.decompress(body)
                del kept["Content-Encoding"]
            answer = Answer(held.status, kept, body)
            self.before_commit(idempotency.keep_answer, key=self._key, answer=answer)
        super().on_finish()


def _refuse_unclaimed(session: Session) -> None:
    raise Misuse(
        "prepare() was overridden, and what `super().prepare()` returns was not awaited: write "
        "`await super().prepare()`, or a repeated request is done twice"
    )
