"""What an answer shows of a fault to a developer: see `log.database_messages`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from handlers.json_api.errors import Debug


def debug_of(fault: BaseException) -> Debug:
    """The message at the root of a fault, its statement, and the line of the program that sent it.

    Parameters are in none of them: the engines hide them.
    """
    links = list(_causes_of(fault))
    root = links[-1]
    kind = type(root)
    debug: Debug = {"error": f"{kind.__module__}.{kind.__qualname__}: {root}", "line": ""}
    for link in links:
        debug["line"] = _line_of(link) or debug["line"]
        statement = getattr(link, "statement", None)
        if statement:  # SQLAlchemy's StatementError: what it is raised from is the driver's
            debug["statement"] = statement
            break
    return debug


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            link = link.exceptions[0]
        else:
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _line_of(error: BaseException) -> str:
    """The innermost line of the program's own: the one that called SQLAlchemy, where that was called."""
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy."):
            break
        line = f"{frame.f_code.co_filename}:{number} in {frame.f_code.co_qualname}"
    return line
