"""CORS: which pages of other origins may read the answers. Off unless origins are named.

https://fetch.spec.whatwg.org/#http-cors-protocol. No credentials are allowed along: no cookie is one here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# What a page's script may read besides the few headers that it may always read.
_EXPOSED = "ETag, Location, X-Request-Id, Server-Timing, Retry-After, Idempotency-Replayed, Wrote, Write-Lost"

# What it may send besides those it may always send.
_ACCEPTED = ("Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "X-Request-Id", "Read-After")

# Chromium's own upper limit is two hours; a change of the settings should not take as long to be seen.
_REMEMBERED_S = 600


def cors_headers(origin: str | None, origins: Collection[str]) -> dict[str, str]:
    """The CORS headers of an answer.

    Args:
        origin: the request's own, None where no page sent it.
        origins: those that are allowed, as browsers write them.
    """
    if not origins:
        return {}
    headers = {"Vary": "Origin"}  # also for the others: no cache may give one page's answer to another
    if origin is not None and origin in origins:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED
    return headers


def preflight_headers(
    requested: Mapping[str, str],
    origins: Collection[str],
    methods: Collection[str],
    accepted: Collection[str] = (),
) -> dict[str, str]:
    """Further headers of the answer to ``OPTIONS``: which requests the page may send.

    Args:
        requested: the headers of the request.
        methods: those that its path has.
        accepted: the headers that a page may send besides those of the contract.
    """
    if "Access-Control-Request-Method" not in requested or requested.get("Origin") not in origins:
        return {}
    return {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": ", ".join((*_ACCEPTED, *accepted)),
        "Access-Control-Max-Age": str(_REMEMBERED_S),
    }
