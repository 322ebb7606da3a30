"""Entity tags, and requests that depend on them. https://www.rfc-editor.org/rfc/rfc9110#section-13"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row
from tornado.web import RequestHandler

from db.board.tasks import Task, TaskRow
from handlers.json_api.errors import Problem

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# Of a list, empty elements are ignored: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
_TAGS = re.compile(rf"[\s,]*{_TAG.pattern}(?:\s*,(?:\s*{_TAG.pattern})?)*\s*")


def etag_of(task: Task | TaskRow | Row[Any]) -> str:
    """A task's entity tag. The time is part of it, since an id can be deleted and used again."""
    return f'"{task.version}-{round(task.update_time.timestamp() * 1_000_000):x}"'


def if_match(handler: RequestHandler) -> Callable[[Task], bool] | None:
    """What the request's ``If-Match`` asks of the task that it is about; None where it asks nothing.

    A weak tag matches nothing here: the comparison is the strong one.

    Raises:
        Problem: 400, the header is not a list of entity tags.
    """
    lines = handler.request.headers.get_list("If-Match")
    if not lines:
        return None
    given = ", ".join(lines)
    if given.strip() == "*":
        return lambda task: True
    if not _TAGS.fullmatch(given):
        raise Problem(400, 'If-Match is * or a list of entity tags, each in quotes: "3-5a1b…"')
    strong = {tag for weak, tag in _TAG.findall(given) if not weak}
    return lambda task: etag_of(task) in strong
