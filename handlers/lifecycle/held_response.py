"""Responses on their way out: one that is held until COMMIT, and one that is sent while it is written."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine


class ResponseDropped(Exception):
    """The awaited response was not sent: its request is retried, or its COMMIT failed."""


class HeldResponse(HTTPConnection):
    """Replaces a request's connection, and buffers what is written until it is released or dropped.

    Lives from `prepare` until the unit of work is settled. Tornado writes a response to the socket and
    calls ``on_finish`` afterwards; with this in between, the bytes are sent after the COMMIT that
    ``on_finish`` starts.

    Errors that would occur while the bytes are sent, after COMMIT, are checked for as they are written, and
    recorded in `fault`.
    """

    def __init__(self, connection: Any, method: str | None) -> None:
        self.connection = connection
        self.fault: Exception | None = None
        self.finished = False
        self.has_left = False
        """Whether part of the response was sent to the client: of this one, nothing before `release`."""
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

    @property
    def is_problem(self) -> bool:
        """Whether it is an error as RFC 9457 has it, with the outcome in its body."""
        return self.headers is not None and self.headers.get("Content-Type") == "application/problem+json"

    def __getattr__(self, name: str) -> Any:  # context, stream, set_body_timeout …
        return getattr(self.connection, name)

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Buffer the head of the response."""
        self._start_line, self.headers = start_line, headers
        self.status = getattr(start_line, "code", 0)
        if chunk:
            self._chunks.append(chunk)
        return self._sent

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Buffer a chunk of the body."""
        self._chunks.append(chunk)
        return self._sent

    def finish(self) -> None:
        """Record that the response is complete, and whether it can be sent as it is."""
        self.finished = True
        try:
            self._check()
        except (ValueError, HTTPOutputError) as error:
            self.fault = error

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """As `HTTP1Connection.set_close_callback`."""
        self.connection.set_close_callback(callback)

    def detach(self) -> NoReturn:
        """Not supported: a detached connection has no end at which its session could be settled."""
        raise RuntimeError(
            "a session handler cannot detach its connection: its response is held until COMMIT. "
            "Use a plain RequestHandler, and `database.unit_of_work()` for its work"
        )

    def release(self, headers: Mapping[str, str]) -> int:
        """Send the response.

        Args:
            headers: those that are known only now.

        Returns:
            The status that was sent.
        """
        if self._start_line is None or self.headers is None:
            raise RuntimeError("there is no response to release")
        self.has_left = True
        for name, value in headers.items():
            self.headers[name] = value
        written = self.connection.write_headers(self._start_line, self.headers, self.body)
        self.connection.finish()
        written.add_done_callback(self._pass_on)
        return self.status

    def fail(self) -> None:
        """The handler has failed; its response is held, so nothing follows from that."""

    def drop(self) -> None:
        """Discard the response. A caller that awaits ``finish()`` gets `ResponseDropped`."""
        if not self._sent.done():
            self._sent.set_exception(
                ResponseDropped("this response was dropped; another one answers the request")
            )
            self._sent.exception()  # marks it as retrieved: there may be no waiter

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
            raise HTTPOutputError(f"{self.status} is not the status of a response")
        if "Transfer-Encoding" in self.headers:
            raise HTTPOutputError("a handler may not set the header Transfer-Encoding")
        _check_headers(self.headers)
        length = self.headers.get("Content-Length")
        if length is not None and self._method != "HEAD" and self.status != 304:
            size = sum(map(len, self._chunks))
            if not length.isdigit() or int(length) != size:
                raise HTTPOutputError(f"the header Content-Length is {length}, the body has {size} bytes")


def _check_headers(headers: HTTPHeaders) -> None:
    text = "".join(itertools.chain.from_iterable(headers.get_all()))
    if "\r" in text or "\n" in text:
        broken = next(name for name, value in headers.get_all() if {"\r", "\n"} & {*name, *value})
        raise ValueError(f"the header {broken!r} contains a line break")
    text.encode("latin1")


class StreamedResponse(HTTPConnection):
    """Sends a response as it is written, and closes the connection where the handler fails.

    Lives as long as its request. Tornado ends a chunked body properly when its handler has raised, so
    that half of an export looks like a complete one; here the connection is closed without the last chunk.
    """

    fault: Exception | None = None
    """As in `HeldResponse`; here Tornado raises at once."""

    is_problem = False
    headers: HTTPHeaders | None = None
    body = b""

    def __init__(self, connection: Any, headers: Mapping[str, str]) -> None:
        self.connection = connection
        self._headers = headers
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
        for name, value in self._headers.items():
            headers[name] = value
        self.status = getattr(start_line, "code", 0)
        sent: asyncio.Future[None] = self.connection.write_headers(start_line, headers, chunk)
        return sent

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a chunk of the body."""
        sent: asyncio.Future[None] = self.connection.write(chunk)
        return sent

    def finish(self) -> None:
        """End the response, or close the connection where the handler has failed in the middle."""
        self.finished = True
        if self._broken:
            self.connection.close()
        else:
            self.connection.finish()

    def fail(self) -> None:
        """The handler has failed. Where part of the response was sent, no error response can follow."""
        self._broken = self.has_left

    def release(self, headers: Mapping[str, str]) -> int:
        """It has been sent already. Returns its status."""
        return self.status

    def drop(self) -> None:
        """Close the connection, if the response has not ended."""
        if not self.finished:
            self.connection.close()

    def detach(self) -> NoReturn:
        """Not supported, as in `HeldResponse`."""
        raise RuntimeError("a session handler cannot detach its connection")
