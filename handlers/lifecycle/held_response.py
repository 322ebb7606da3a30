"""Responses on their way out: one that is held until COMMIT, and one that leaves while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine


class ResponseDropped(Exception):
    """The response that was waited for never left: its request runs again, or its COMMIT failed."""


class HeldResponse(HTTPConnection):
    """Stands in for a request's connection, and keeps what is written until it is released or dropped.

    Lives from `prepare` until the unit of work is settled. Tornado writes a response to the socket and
    calls ``on_finish`` afterwards; with this in between, the bytes leave after the COMMIT that
    ``on_finish`` asks for.

    What would fail while the bytes are written, after COMMIT, is looked for as they come in, and
    noted in `fault`.
    """

    has_left = False
    """Whether part of the response has gone to the client: of this one, nothing before `release`."""

    def __init__(self, connection: Any, method: str | None) -> None:
        self.connection = connection
        self.fault: Exception | None = None
        self.finished = False
        self.headers: HTTPHeaders | None = None
        self._method = method
        self._start_line: RequestStartLine | ResponseStartLine | None = None
        self.status = 0
        self._chunks: list[bytes] = []
        self._sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def body(self) -> bytes:
        """The body, as far as it has been written."""
        return b"".join(self._chunks)

    def __getattr__(self, name: str) -> Any:  # context, stream, set_body_timeout …
        return getattr(self.connection, name)

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Keep the head of the response."""
        self._start_line, self.headers = start_line, headers
        self.status = getattr(start_line, "code", 0)
        if chunk:
            self._chunks.append(chunk)
        return self._sent

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Keep a piece of the body."""
        self._chunks.append(chunk)
        return self._sent

    def finish(self) -> None:
        """Note that the response is whole, and whether it could be written as it is."""
        self.finished = True
        try:
            self._check()
        except (ValueError, HTTPOutputError) as error:
            self.fault = error

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """As `HTTP1Connection.set_close_callback`."""
        self.connection.set_close_callback(callback)

    def detach(self) -> NoReturn:
        """Not here: what is detached has no end at which its session could be settled."""
        raise RuntimeError(
            "a session handler cannot detach its connection: its response is held until COMMIT. "
            "Use a plain RequestHandler, and `database.unit_of_work()` for its work"
        )

    def release(self, headers: Mapping[str, str]) -> int:
        """Let the response leave.

        Args:
            headers: what could only be known now.

        Returns:
            The status that the client is told.
        """
        if self._start_line is None or self.headers is None:
            raise RuntimeError("there is no response to release")
        for name, value in headers.items():
            self.headers[name] = value
        written = self.connection.write_headers(self._start_line, self.headers, self.body)
        self.connection.finish()
        written.add_done_callback(self._pass_on)
        return self.status

    def fail(self) -> None:
        """The handler has failed; its answer is held, so nothing follows from that."""

    def drop(self) -> None:
        """Forget the response. Whoever awaits ``finish()`` is told."""
        if not self._sent.done():
            self._sent.set_exception(
                ResponseDropped("this response was dropped; another one answers the request")
            )
            self._sent.exception()  # nobody need be waiting

    def _pass_on(self, written: asyncio.Future[None]) -> None:
        if self._sent.done():
            return
        error = None if written.cancelled() else written.exception()
        if error is None:
            self._sent.set_result(None)
        else:
            self._sent.set_exception(error)
            self._sent.exception()

    def _check(self) -> None:
        if self._start_line is None or self.headers is None:
            raise HTTPOutputError("a body was written without headers")
        if not 200 <= self.status <= 999:
            raise HTTPOutputError(f"{self.status} is not the status of an answer")
        if "Transfer-Encoding" in self.headers:
            raise HTTPOutputError("the header Transfer-Encoding is not a handler's to set")
        _check_headers(self.headers)
        length = self.headers.get("Content-Length")
        if length is not None and self._method != "HEAD" and self.status != 304:
            size = sum(map(len, self._chunks))
            if not length.isdigit() or int(length) != size:
                raise HTTPOutputError(f"the header Content-Length says {length}, the body has {size} bytes")


def _check_headers(headers: HTTPHeaders) -> None:
    lines = [f"{name}: {value}" for name, value in headers.get_all()]
    text = "".join(lines)
    if "\r" in text or "\n" in text:
        broken = next(line for line in lines if "\r" in line or "\n" in line)
        raise ValueError(f"the header {broken.partition(':')[0]!r} has a line break in it")
    text.encode("latin1")


class StreamedResponse(HTTPConnection):
    """Passes a response on as it is made, and breaks it off where it fails.

    Lives as long as its request. Tornado ends a chunked body properly when its handler has raised, so
    that half of an export looks like a whole one; here the connection is closed without the last chunk.
    """

    fault: Exception | None = None
    """As in `HeldResponse`; what is wrong with this one, Tornado says at once."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.has_left = False
        self.finished = False
        self.status = 0
        self._broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Send the head of the response."""
        self.has_left = True
        self.status = getattr(start_line, "code", 0)
        sent: asyncio.Future[None] = self.connection.write_headers(start_line, headers, chunk)
        return sent

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a piece of the body."""
        sent: asyncio.Future[None] = self.connection.write(chunk)
        return sent

    def finish(self) -> None:
        """End the response, or break the connection where the handler has failed in the middle."""
        self.finished = True
        if self._broken:
            self.connection.close()
        else:
            self.connection.finish()

    def fail(self) -> None:
        """The handler has failed. Where part of the response has left, no error can be told any more."""
        self._broken = self.has_left

    def release(self, headers: Mapping[str, str]) -> int:
        """It has left already. Returns its status."""
        return self.status

    def drop(self) -> None:
        """Break it off, if it has not ended."""
        if not self.finished:
            self.connection.close()

    def detach(self) -> NoReturn:
        """Not here, as in `HeldResponse`."""
        raise RuntimeError("a session handler cannot detach its connection")
