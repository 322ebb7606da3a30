"""The hosts that a server answers for."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Collection, Iterable, Sequence
from socket import socket

from tornado.httputil import HTTPHeaders, RequestStartLine

from conf.hosts import ANY, canonical_host
from handlers.lifecycle.errors import Problem

log = logging.getLogger("onfinish.server")

LOCAL = ("localhost", "127.0.0.1", "[::1]")

_PROBES = ("/livez", "/readyz")
"""A load balancer sends these to an address, possibly without a Host."""

_WITH_PORT = re.compile(r"(.*?)(?::[0-9]*)?")

_SPELLINGS_MAX = 64
_SHOWN_CHARS_MAX = 100


class Hosts:
    """The hosts of one port. Lives as long as its server.

    A web page whose name its owner has pointed at this server (DNS rebinding) has this server's origin for
    its browser: the browser lets it read, and its ``Origin`` is no evidence. It cannot forge the Host.

    Args:
        names: hosts in their canonical spelling, see `canonical_host`.
        setting: the name of the setting to change where one is missing.
    """

    def __init__(self, names: Iterable[str], *, setting: str) -> None:
        self._names = frozenset(names)
        self._setting = setting
        self.spelled = set(self._names)
        """Values of the header that are known to be served: one look-up for nearly every request."""

    def refusal(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Problem | None:
        """Why a request is rejected; None where it is served, or is malformed, so that Tornado rejects it."""
        given = headers.get("Host")
        if given in self.spelled or start_line.path.partition("?")[0] in _PROBES:
            return None
        if "," in given if given is not None else start_line.version != "HTTP/1.0":
            return None  # two of them, or none: 400
        match = _WITH_PORT.fullmatch(given or "")
        if given and match and canonical_host(match[1]) in self._names:
            if len(self.spelled) < _SPELLINGS_MAX:
                self.spelled.add(given)
            return None
        log.info(
            "refused: Host %r is not one that is served (%s: %s)",
            (given or "")[:_SHOWN_CHARS_MAX],
            self._setting,
            " ".join(sorted(self._names)),
        )
        return Problem(403, f"this Host is not one that is served here; {self._setting} names those that are")


def hosts_of(
    given: Collection[str],
    *,
    setting: str,
    production: bool,
    address: str,
    sockets: Sequence[socket],
) -> Hosts | None:
    """The hosts of a port; None where any is served.

    Args:
        given: the setting's value.
        setting: its name.
        production: whether a proxy in front of it checks the hosts.
        address: the one that the settings give.
        sockets: the listening sockets.
    """
    if not given:
        if production or not all(map(_is_on_loopback, sockets)):
            return None
        own = canonical_host(f"[{address}]" if ":" in address else address)
        return Hosts({*LOCAL, *([own] if own else [])}, setting=setting)
    return None if ANY in given else Hosts(given, setting=setting)


def _is_on_loopback(listening: socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
