"""Exceptions as a log may show them: without the data in a database's messages.

The message of a driver's error, and of SQLAlchemy's that wraps it, contains SQL and rows.
Its class, its code and its frames do not: these are kept, as is the message of every other exception.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

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
    """Replace the exception of a record by `redacted`, and quotations of it in the record's message."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or not (quotes := _quotes_of(error)):
        return
    copy = _redacted(error, quotes)
    # asyncio's "Task exception was never retrieved" contains the task's repr, and with it the error's.
    record.msg, record.args = _without(record.getMessage(), quotes), ()
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


def _quotes_of(error: BaseException) -> dict[str, str]:
    """The forms in which a withheld message may be quoted, and the text that replaces each."""
    withheld = [link for link in _tree_of(error) if _is_withheld(link)]
    texts = {text: _substitute_for(link) for link in withheld for text in (repr(link), str(link))}
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
        # Not a subclass of the driver's: asyncpg registers every subclass of its errors.
        named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        return type(kind.__name__, (Exception,), named)(_substitute_for(link))  # type: ignore[no-any-return]
    if isinstance(link, BaseExceptionGroup):
        copy: BaseException = link.derive([_redacted(member, quotes) for member in link.exceptions])
    else:
        args = (_without(arg, quotes) if isinstance(arg, str) else arg for arg in link.args)
        copy = kind.__new__(kind, *args)  # its constructor is not called: it may have effects
    copy.__dict__.update(vars(link))
    if notes := getattr(link, "__notes__", None):
        copy.__notes__ = [_without(str(note), quotes) for note in notes]
    return copy


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and its contexts, as far as a traceback shows them; each once."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _tree_of(error: BaseException) -> Iterator[BaseException]:
    """The same, with the members of groups, and their chains."""
    for link in _chain_of(error):
        yield link
        if isinstance(link, BaseExceptionGroup):
            for member in link.exceptions:
                yield from _tree_of(member)
