"""Private names of Tornado that the handlers rely on, each with its reason. A test fails when one goes."""

from __future__ import annotations

from tornado.web import _has_stream_request_body


def has_stream_request_body(handler: type) -> bool:
    """Whether a class of handlers reads its body as it comes. There is no public way to ask."""
    return _has_stream_request_body(handler)
