"""Trusted proxies, and the caller's address from their headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from tornado.httputil import HTTPHeaders

from server.edge.early_errors import Caller


class Proxies:
    """The trusted networks. Lives as long as its server.

    Tornado's own ``xheaders`` trusts every peer, and prefers ``X-Real-Ip``, which many proxies pass on as the
    client wrote it. Here a header counts only if the connection comes from a trusted address, and only the
    two that every proxy writes itself: ``X-Forwarded-For`` and ``X-Forwarded-Proto``.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def caller(self, peer: Caller, headers: HTTPHeaders) -> Caller:
        """The sender of a request that arrived over a connection from ``peer``.

        Each proxy appends the address of its peer, so the list is read from its end, past the trusted
        proxies; entries before that are the client's own, and not trusted.
        """
        if not self._trusts(peer.remote_ip):
            return peer
        ip = peer.remote_ip
        for entry in reversed(",".join(headers.get_list("X-Forwarded-For")).split(",")):
            if not _is_ip(entry.strip()):
                break
            ip = entry.strip()
            if not self._trusts(ip):
                break
        protocol = headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        return Caller(ip, protocol if protocol in ("http", "https") else peer.protocol)

    def _trusts(self, ip: str) -> bool:
        if not _is_ip(ip):
            return False
        address = ipaddress.ip_address(ip)
        mapped = getattr(address, "ipv4_mapped", None)  # as a socket for both families shows IPv4
        return any((mapped or address) in network for network in self._networks)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
