"""Requests that depend on an entity tag. https://www.rfc-editor.org/rfc/rfc9110#section-13"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tornado.web import RequestHandler

from handlers.lifecycle.errors import Problem

MALFORMED = 'If-Match is * or a list of entity tags, each in quotes: "3-5a1b…"'

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# Of a list, empty elements are ignored: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
_TAGS = re.compile(rf"[\s,]*{_TAG.pattern}(?:\s*,(?:\s*{_TAG.pattern})?)*\s*")

Resource = TypeVar("Resource")


def if_match(
    handler: RequestHandler, etag_of: Callable[[Resource], str]
) -> Callable[[Resource], bool] | None:
    """What the request's ``If-Match`` requires of its resource; None where it requires nothing.

    A weak tag matches nothing here: the comparison is the strong one.

    Args:
        etag_of: returns the entity tag of a resource.

    Raises:
        Problem: 400, the header is not a list of entity tags.
    """
    lines = handler.request.headers.get_list("If-Match")
    if not lines:
        return None
    given = ", ".join(lines)
    if given.strip() == "*":
        return lambda resource: True
    if not _TAGS.fullmatch(given):
        raise Problem(400, MALFORMED)
    strong = {tag for weak, tag in _TAG.findall(given) if not weak}
    return lambda resource: etag_of(resource) in strong
