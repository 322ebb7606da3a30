"""Requests that can be repeated without being done twice: the header ``Idempotency-Key``."""

from __future__ import annotations

import asyncio
import functools
import gzip
import inspect
import json
import re
import uuid
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import sqlalchemy
from sqlalchemy.orm import InstanceState, Session
from tornado.web import RequestHandler, authenticated

from db import idempotency, passes_on
from db.errors import DeadlinePassed, Unavailable, UsageError
from db.idempotency import KEY_CHARS_MAX, Answer, Key
from handlers.base import SessionHandler
from handlers.lifecycle._tornado import STREAMS_BODY, has_stream_request_body
from handlers.lifecycle.errors import Problem

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_KEY = re.compile(rf"[\x21-\x7e][\x20-\x7e]{{0,{KEY_CHARS_MAX - 1}}}")

_KEPT_HEADERS = ("Content-Type", "Content-Encoding", "Location", "ETag")
"""What belongs to the answer itself. The others belong to the moment it is given."""

_AUTHENTICATED = authenticated(lambda handler: None).__code__


class _WholeBodies(ABCMeta):
    """Refuses a class at the moment at which Tornado's decorator makes its uploads streamed ones.

    A subclass of ABCMeta, so that a handler can have an abstract mixin beside it.
    """

    def __setattr__(cls, name: str, value: object) -> None:
        if name == STREAMS_BODY and value:
            raise _has_no_fingerprint(cls)
        super().__setattr__(name, value)


class IdempotentHandler(SessionHandler, metaclass=_WholeBodies):
    """A session handler whose POST may be repeated under one key. Lives as long as one attempt at a request.

    A key counts for a method, a path and a caller (`idempotency_principal`). It is taken in the request's
    own transaction when the checks of `prepare` and of the decorators of ``post`` are past, and before the
    body of ``post`` begins; the answer is written beside it just before COMMIT: there is no moment at which
    one is kept without the other. What `prepare` itself writes is written at each repeat. A request that is
    refused leaves no key, and may be sent again.

    Requests of one process under one key wait for one another before they acquire a slot.
    """

    _given = ""
    _key: Key | None = None
    _turn: asyncio.Future[None] | None = None
    _waits_for_twin = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if has_stream_request_body(cls):
            raise _has_no_fingerprint(cls)
        _refuse_late_checks(cls)

    def idempotency_principal(self) -> str:
        """The caller that a key belongs to, as text. Callers with the same text share their answers.

        By default `current_user`: "" where there is none, a mapped object by its primary key, what JSON has
        by its value. Override it where a user is another kind of object or has fields that change, or where
        callers are distinguished otherwise (an API key, a tenant). Every process has to return the same text.

        Called for a request with a key, when the checks of `prepare` and of the decorators of ``post`` are
        past.

        Raises:
            UsageError: the user is an object that has no such text.
        """
        user = self.current_user
        if user is None:
            return ""
        text = _text_of(user)
        if text is None:
            raise UsageError(
                f"{type(self).__name__}: current_user is a {type(user).__name__}, which has no text that is "
                "the same in every process: override `idempotency_principal()`, which returns the caller's"
            )
        return f"{type(user).__name__} {text}"

    def prepare(self) -> Awaitable[None] | Any:
        """As `SessionHandler.prepare`; what is called next waits for its turn under the key."""
        waiting = super().prepare()
        given = self.request.headers.get(HEADER)
        if given is None or self.request.method != "POST" or type(self).post is RequestHandler.post:
            return waiting
        if not _KEY.fullmatch(given):
            raise Problem(400, f"{HEADER} has 1 to {KEY_CHARS_MAX} printable ASCII characters")
        self._given = given
        # On the instance: Tornado calls these, whatever a subclass makes of `prepare`, and a request without
        # a key has no part in it.
        self.run = functools.partial(self._run_in_turn, self.run)  # type: ignore[method-assign]
        self.post = functools.partial(self._post_once, self.post)
        return waiting

    def on_connection_close(self) -> None:
        """As `SessionHandler.on_connection_close`; a request that still waits for its twin is cancelled."""
        if self._turn is not None and not self._turn.done():
            self.cancel_on_disconnect = True  # type: ignore[misc]  # it has done nothing, and the twin does it
        super().on_connection_close()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As `SessionHandler.send_error`; 503 for a request that waited for its twin until its deadline."""
        transaction = self._transaction
        if self._waits_for_twin and transaction and isinstance(transaction.stopped, DeadlinePassed):
            busy = Unavailable(f"the request with this {HEADER} is still under way")
            transaction.stopped, kwargs["exc_info"] = None, (Unavailable, busy, None)
        super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        """As `SessionHandler.on_finish`; the answer is kept with the work."""
        if self._given:
            self._restore()
        # With an early commit the key is kept by that, without an answer.
        if self._key is not None and not self._begun().explicit.begun and self.answer.headers is not None:
            headers, body = self.answer.headers, self.answer.body
            kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
            if kept.get("Content-Encoding") == "gzip":  # by Tornado; a repeat may not accept it
                body = gzip.decompress(body)
                del kept["Content-Encoding"]
            answer = Answer(self.answer.status, kept, body)
            self.before_commit(idempotency.keep_answer, key=self._key, answer=answer)
        super().on_finish()

    @passes_on
    def _run_in_turn(
        self, run: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """As `run`, for what comes before the method: the turn first, since `run` takes a slot."""
        return self._in_turn(run(*args, **kwargs))  # made now: one that is never awaited fails the request

    async def _in_turn(self, call: Coroutine[Any, Any, Any]) -> Any:
        # The caller may be what this call is to look up, so here the credentials stand for it. Cookies may
        # change between retries, and count where there is nothing else: each of those would take a slot.
        headers = self.request.headers
        try:
            await self._take_turn((headers.get("Authorization") or headers.get("Cookie"),))
        except BaseException:
            call.close()
            raise
        return await call

    async def _post_once(self, post: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Call the method, unless its answer is known."""
        if not inspect.iscoroutinefunction(inspect.unwrap(post)):
            if await self._claim():
                result = post(*args, **kwargs)
                if result is not None:
                    await result
            return
        body = post(*args, **kwargs)  # its decorators check; the body itself begins with `await`
        if body is None:
            return  # a decorator has refused
        if not inspect.iscoroutine(body):
            raise UsageError(
                f"{type(self).__name__}.post was begun by its decorator before its {HEADER} was taken: let "
                "the decorator return what the method returns"
            )
        try:
            is_first = await self._claim()
        except BaseException:
            body.close()
            raise
        if is_first:
            await body
        else:
            body.close()

    async def _claim(self) -> bool:
        """Take the key, or give the answer that it stands for. Returns whether the request is to be done."""
        principal = self.idempotency_principal()
        await self._take_turn(principal)
        self._restore()
        key = Key.of("POST", self.request.path, self._given, principal=principal)
        body, query = self.request.body, self.request.query

        def claim(session: Session) -> Answer | None:
            self._waits_for_twin = True  # another process's; before, a place is all that it waited for
            answer = idempotency.claim_key(session, key=key, request_body=body, query=query)
            if answer is not None and self.settings["database"].write_tokens is not None:
                idempotency.touch_key(session, key=key)
            return answer

        answer = await self.run(claim, self.session)
        self._waits_for_twin = False
        if answer is None:
            self._key = key
            return True
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.set_header(REPLAYED, "true")
        self.set_status(answer.status)
        self.finish(answer.body)
        return False

    async def _take_turn(self, caller: object) -> None:
        if self._turn is None or self._turn.cancelled():
            name = (self.request.path, self._given, caller)
            self._turn = self.settings["database"].turns.join(name, self._begun().unit)
        self._waits_for_twin = not self._turn.done()
        await self._turn
        self._waits_for_twin = False

    def _restore(self) -> None:
        """Take back what `prepare` has put on the instance: it holds the handler, and is needed once."""
        for name in ("run", "post"):
            self.__dict__.pop(name, None)


def _text_of(user: object) -> str | None:
    """A user as a text that is the same in every process; None for an object without one."""
    state = sqlalchemy.inspect(user, raiseerr=False)
    if isinstance(state, InstanceState):
        user = state.identity
    try:
        return None if user is None else json.dumps(user, sort_keys=True, default=_plain)
    except (TypeError, ValueError):
        return None


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no text of its own")


def _has_no_fingerprint(cls: type) -> TypeError:
    return TypeError(
        f"{cls.__module__}.{cls.__qualname__}: with `stream_request_body` a body is gone when it has been "
        f"read, so an {HEADER} cannot tell two uploads apart. Derive the class from `SessionHandler`, and "
        "let a constraint of the database refuse the repeat; or leave the decorator away"
    )


def _refuse_late_checks(cls: type[IdempotentHandler]) -> None:
    """Refuse a class whose decorator of ``post`` could check only behind a replay.

    A plain decorator checks while it is called, and the ``async def`` below it begins later, with ``await``:
    the key is taken between the two. What Tornado's own `authenticated` checks is the default principal. A
    decorator without ``__wrapped__`` is not seen.

    Raises:
        TypeError: names the class, and the way out.
    """
    if cls.post is RequestHandler.post:
        return
    decorators: list[Any] = []
    method: Any = cls.post
    while (below := getattr(method, "__wrapped__", None)) is not None:
        if inspect.isgeneratorfunction(below):
            break  # Tornado's `gen.coroutine`
        decorators.append(method)
        method = below
    if inspect.iscoroutinefunction(method) and not any(map(inspect.iscoroutinefunction, decorators)):
        return
    by_principal = cls.idempotency_principal is IdempotentHandler.idempotency_principal
    if any(getattr(each, "__code__", None) is not _AUTHENTICATED or not by_principal for each in decorators):
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__}.post has a decorator whose check would come behind the "
            f"replay of an {HEADER}: check in `prepare`, or write `async def post`, and the decorator as a "
            "plain `def` that returns what the method returns"
        )
