"""Exceptions as a log may show them: without the data in a database's messages.

The message of a driver's error, and of SQLAlchemy's that wraps it, contains SQL and rows.
Its class, its code and its frames do not: these are kept, as is the message of every other exception.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

_WITHHELD = "its message may hold data and is withheld"

# PendingRollbackError repeats the message of the statement that failed before it. Given by name: logs are set
# up before SQLAlchemy is imported, which takes a while.
_CLASSES = {"sqlalchemy.exc.StatementError", "sqlalchemy.exc.PendingRollbackError"}

_MODULES = (
    "psycopg2.",
    "psycopg.",
    "asyncpg.",
    "pymysql.",
    "sqlite3.",
    "sqlalchemy.dialects.",  # where its adapter for asyncpg has errors of its own, with asyncpg's messages
)


def redacted(error: BaseException) -> BaseException:
    """An exception whose chain contains no database message: the same one, where there is none.

    Otherwise a copy of the chain of causes and contexts, with the same tracebacks and groups, for loggers and
    error trackers. An error whose message is withheld is replaced by one of the same name, without its notes;
    quotations of that message in other errors are withheld too.
    """
    quotes = _quotes_of(error)
    return _redacted(error, quotes) if quotes else error


def redact(record: logging.LogRecord) -> None:
    """Replace a record's exception by `redacted`, and what its message quotes of it or of an argument."""
    error = record.exc_info[1] if record.exc_info else None
    told = [arg for arg in record.args or () if isinstance(arg, BaseException)]  # of a dict: its names
    if error is None and not told:
        return
    if not (quotes := _quotes_of(*([error] if error is not None else []), *told)):
        return
    # asyncio's "Task exception was never retrieved" has the task's repr, and with it the error's.
    record.msg, record.args = _without(record.getMessage(), quotes), ()
    if error is not None:
        copy = _redacted(error, quotes)
        record.exc_info, record.exc_text = (type(copy), copy, copy.__traceback__), None


class RedactingFilter(logging.Filter):
    """For applications that set up their own logging: ``handler.addFilter(RedactingFilter())``.

    Lives as long as its handler. Changes the record itself, so handlers that come later get it redacted too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record's exception. Every record passes."""
        redact(record)
        return True


def code_of(error: BaseException) -> str:
    """An error as a log may show it: its class and its code, and nothing of the statement."""
    origin = getattr(error, "orig", None)
    codes = (getattr(origin, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorname"))
    code = next(filter(None, codes), None)
    if code is None and origin is not None and origin.args and isinstance(origin.args[0], int):
        code = origin.args[0]  # PyMySQL's; other drivers' first argument is text
    kind = type(origin or error).__name__
    return f"{kind} {code}" if code else kind


def _is_withheld(error: BaseException) -> bool:
    return any(
        f"{kind.__module__}.{kind.__qualname__}" in _CLASSES or f"{kind.__module__}.".startswith(_MODULES)
        for kind in type(error).__mro__
    )


def _substitute_for(error: BaseException) -> str:
    return f"{code_of(error)} ({_WITHHELD})"


def _quotes_of(*errors: BaseException) -> dict[str, str]:
    """What texts may quote of the messages that are withheld, and what is told in its place."""
    withheld = [link for link in _reachable_from(errors) if _is_withheld(link)]
    texts = {
        text: _substitute_for(link)
        for link in withheld
        # The last is what the repr of an error has that quotes it.
        for text in (repr(link), str(link), repr(str(link))[1:-1])
    }
    return {text: texts[text] for text in sorted(texts, key=len, reverse=True)}


def _without(text: str, quotes: dict[str, str]) -> str:
    for quote, substitute in quotes.items():
        if quote:
            text = text.replace(quote, substitute)
    return text


def _redacted(error: BaseException, quotes: dict[str, str]) -> BaseException:
    links = list(_chain_of(error))
    copies = {id(link): _copy_of(link, quotes) for link in links}
    for link in links:
        copy = copies[id(link)]
        copy.__cause__ = copies.get(id(link.__cause__))
        copy.__context__ = copies.get(id(link.__context__))
        copy.__suppress_context__ = link.__suppress_context__
        copy.__traceback__ = link.__traceback__
    return copies[id(error)]


def _copy_of(link: BaseException, quotes: dict[str, str]) -> BaseException:
    kind = type(link)
    if _is_withheld(link):
        return _named_as(kind, _substitute_for(link))
    if isinstance(link, BaseExceptionGroup):
        members = [_redacted(member, quotes) for member in link.exceptions]
        message = _without(link.message, quotes)
        copy: BaseException = (
            link.derive(members) if message == link.message else BaseExceptionGroup(message, members)
        )
    else:
        args = (_without(arg, quotes) if isinstance(arg, str) else arg for arg in link.args)
        copy = kind.__new__(kind, *args)  # not its constructor, which may do anything
        copy.__dict__.update(vars(link))
        text = _text_of(copy)
        if (cleaned := _without(text, quotes)) != text:  # it is made of an argument or attribute: the error
            copy = _named_as(kind, cleaned)
    if notes := getattr(link, "__notes__", None):
        copy.__notes__ = [_without(str(note), quotes) for note in notes]
    return copy


def _named_as(kind: type[BaseException], text: str) -> BaseException:
    """An error of the same name. Not a subclass: asyncpg registers every class that is made of its own."""
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Exception,), named)(text)  # type: ignore[no-any-return]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # a traceback has a word for it
        return ""


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and its contexts, as far as a traceback shows them; each once."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _reachable_from(errors: Iterable[BaseException]) -> Iterator[BaseException]:
    """Errors and what their texts may quote: causes, contexts, one behind ``from None`` too, the members of
    groups, and errors that others are made of."""
    seen: set[int] = set()
    todo = list(errors)
    while todo:
        link = todo.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        members = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        linked = (link.__cause__, link.__context__, *members, *link.args, *vars(link).values())
        todo += [other for other in linked if isinstance(other, BaseException)]
