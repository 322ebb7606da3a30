"""A database that refuses the connection: why, and what to do."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from conf.masks import mask_text
from db.backend import Backend
from db.errors import DatabaseError

_WORDS_CHARS_MAX = 500

_NO_TLS = "set up TLS there; on a network that can be trusted, add ?sslmode=disable to the URL"

_FIXES = {
    "password authentication failed": "is it the right user, with the right password?",
    "Access denied": "is it the right user, with the right password, and may it use that database?",
    "not permitted to log in": "ALTER ROLE … LOGIN on the server, or name another user in the URL",
    "pg_hba.conf": "add a line for this user, database and host to the server's pg_hba.conf",
    "does not support SSL": _NO_TLS,
    "rejected SSL upgrade": _NO_TLS,
    "certificate verify failed": "name the authority that signed the server's: ?sslrootcert=… in the URL",
    "too many connections": "set database.pool_size lower (--pool-size), or raise the limit on the server",
    "too many clients": "set database.pool_size lower (--pool-size), or raise max_connections on the server",
    "does not exist": "make it on the server, or name another in the URL",
    "Unknown database": "make it on the server, or name another in the URL",
}
"""What to do, by the words of the refusal: for a connection that was never made the driver has no code."""


def drivers_words(error: DatabaseError) -> str:
    """Why, as the driver reports it, in one line; empty where no driver has reported anything.

    It may name a host and a user, and is for the log and the terminal.
    """
    return words_of(error.__cause__) if isinstance(error.__cause__, DBAPIError) else ""


def words_of(error: DBAPIError) -> str:
    """The words of a driver's error, likewise."""
    arguments: tuple[object, ...] = getattr(error.orig, "args", ())
    # PyMySQL's are a number and a message, which would be shown as a tuple.
    told = f"{arguments[1]} ({arguments[0]})" if len(arguments) > 1 else str(error.orig)
    lines = (line.strip() for line in mask_text(told).splitlines())
    return "; ".join(filter(None, lines))[:_WORDS_CHARS_MAX]


def way_in(words: str, backend: Backend) -> str:
    """What to do, judged by the driver's words."""
    if backend.belongs_to_process:
        return "may this user read and write the file and its folder, and is it an SQLite file?"
    return next(
        (fix for told, fix in _FIXES.items() if told in words),
        "is the server running, does it take connections from here, are user and password right?",
    )
