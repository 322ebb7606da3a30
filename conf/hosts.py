"""Hosts as requests name them."""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_CHARS_MAX = 254  # RFC 1035, and the root's dot

ANY = "*"


def canonical_host(text: str) -> str | None:
    """The canonical spelling of a host, a name or an address without a port; None where it is neither.

    In lower case, without the root's dot, an address of IPv6 in brackets and as short as it can be written.
    """
    if len(text) > _CHARS_MAX:
        return None
    if text.startswith("[") and text.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            return None
    host = text.lower().removesuffix(".")
    return host if _NAME.fullmatch(host) else None
