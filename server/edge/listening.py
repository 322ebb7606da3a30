"""The listening sockets of a server."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from typing import NamedTuple

from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from conf import Settings

log = logging.getLogger("onfinish.server")

LOOPBACK = "127.0.0.1"

_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_S = 0.5
_LOG_EVERY_S = 60.0


class CannotListen(Exception):
    """A port could not be listened on; the message has the reason, and the way out."""


class ListeningSocket(socket.socket):
    """A listening socket. Lives as long as its process listens.

    Where the process has no descriptor left, the connection stays in the queue, and the loop would call the
    handler again at once: plain Tornado used all of a core, and logged 6,000 tracebacks a second. Here
    accepting pauses for a while.
    """

    _logged_at = float("-inf")

    def accept(self) -> tuple[socket.socket, object]:
        """As a socket's; raises `BlockingIOError` while there is no descriptor for a connection."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _NOTHING_LEFT:
                raise
            self._pause(error)
            raise BlockingIOError from error

    def _pause(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged_at > _LOG_EVERY_S:
            self._logged_at = now
            log.error(
                "no connection can be accepted (%s); open connections are served, and new ones wait. Raise "
                "the limit: LimitNOFILE= in the systemd unit, or ulimit -n",
                error.strerror,
            )
        loop = IOLoop.current()
        loop.update_handler(self, 0)
        loop.call_later(_PAUSE_S, self._go_on, loop)

    def _go_on(self, loop: IOLoop) -> None:
        if self.fileno() >= 0:  # else it has been closed meanwhile, and its handler removed
            loop.update_handler(self, IOLoop.READ)


class SharedSocket(ListeningSocket):
    """A listening socket that several processes share. Lives as long as its process listens.

    Tornado accepts all waiting connections at once, and one process would have all of a proxy's connections,
    for as long as they are kept alive: of 40 in a burst up to 33 went to one of four processes. Accepting one
    at a turn of the loop leaves the next to a process that is free.
    """

    _has_taken = False

    def accept(self) -> tuple[socket.socket, object]:
        """As a socket's; raises `BlockingIOError` after each connection."""
        if self._has_taken:
            self._has_taken = False
            raise BlockingIOError
        accepted = super().accept()
        self._has_taken = True
        return accepted


class Listening(NamedTuple):
    """The sockets of one server; its processes share them. Lives from `listen` to `close`."""

    http: list[socket.socket]
    ops: list[socket.socket]

    @property
    def port(self) -> int:
        """The actual port, where the setting is 0."""
        return int(self.http[0].getsockname()[1])

    @property
    def ops_port(self) -> int | None:
        """The port of ``/metrics`` and ``/stats``; None where they have none."""
        return int(self.ops[0].getsockname()[1]) if self.ops else None

    def shared(self) -> Listening:
        """The same sockets, for one of several processes; replaces these."""
        http = [SharedSocket(fileno=each.detach()) for each in self.http]
        return Listening([*http], self.ops)

    def close(self) -> None:
        """Stop listening in this process."""
        for each in (*self.http, *self.ops):
            each.close()


def listen(settings: Settings) -> Listening:
    """Listen on the ports of the settings.

    Raises:
        CannotListen: on one of them.
    """
    http, ops = settings.http, settings.ops
    sockets = _bind(http.address, http.port, "port")
    try:
        return Listening(sockets, [] if ops.port is None else _bind(LOOPBACK, ops.port, "ops-port"))
    except CannotListen:
        Listening(sockets, []).close()
        raise


def _bind(address: str, port: int, flag: str) -> list[socket.socket]:
    try:
        return [ListeningSocket(fileno=each.detach()) for each in bind_sockets(port, address)]
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}:{port}: {_reason(error, flag)}") from error


def _reason(error: OSError, flag: str) -> str:
    """The reason, and the way out."""
    if isinstance(error, socket.gaierror):  # its numbers are no errno
        return f"{error.strerror}. Give an address of this machine with --address"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{os.strerror(error.errno)}. Give an address of this machine with --address"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{reason}. Choose another port with --{flag}, or 0 for a free one"
