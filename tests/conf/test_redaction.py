"""Exceptions lose what a database's message says of data, and nothing else."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
import traceback
from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from conf import RedactingFilter
from conf.redaction import redacted

ROW = "jane@example.org"


def refuse() -> None:
    """Have SQLite refuse a statement, in a message that quotes a row."""
    with create_engine("sqlite://", hide_parameters=True).begin() as connection:
        connection.execute(text("CREATE TABLE people (email TEXT CHECK (email <> 'x'))"))
        connection.execute(text(f"INSERT INTO people VALUES (1 + 'x', '{ROW}')"))


def raised_by(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:  # noqa: BLE001  # it is what is wanted
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture(scope="module")
def refusal() -> Exception:
    """SQLAlchemy's error, whose message has the statement, raised from the driver's."""
    error = raised_by(refuse)
    assert ROW in str(error)
    return error


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(redacted(error)))


def test_class_code_and_frames_are_kept_of_what_is_withheld(refusal: Exception):
    told = shown(refusal)

    assert ROW not in told
    assert "INSERT" not in told.replace('f"INSERT INTO people', "")  # but for the line of source
    assert "sqlalchemy.exc.OperationalError: OperationalError SQLITE_ERROR (its message may hold" in told
    assert "sqlite3.OperationalError: OperationalError (its message may hold" in told
    assert "in refuse\n" in told


def test_a_chain_without_a_databases_message_is_the_same_object():
    error = raised_by(lambda: int("x"))
    error.__cause__ = KeyError("cause")

    assert redacted(error) is error


def test_an_application_finds_its_own_error_as_it_was(refusal: Exception):
    """What is copied has the class, the arguments and the attributes; the original keeps its cause."""

    class Lost(Exception):
        def __init__(self, *, what: str) -> None:
            super().__init__(f"{what} is lost")
            self.what = what

    error = Lost(what="a row")
    error.__cause__ = refusal
    error.add_note("at noon")

    copy = redacted(error)

    assert type(copy) is Lost
    assert (str(copy), copy.what, copy.__notes__) == ("a row is lost", "a row", ["at noon"])
    assert error.__cause__ is refusal
    assert ROW not in "".join(traceback.format_exception(copy))


def test_what_an_error_or_a_note_quotes_of_the_message_is_withheld_too(refusal: Exception):
    error = RuntimeError(f"import failed: {refusal}")
    error.__cause__ = refusal
    error.add_note(f"it was {refusal!r}")

    told = shown(error)

    assert "RuntimeError: import failed: OperationalError SQLITE_ERROR (its message" in told
    assert ROW not in told


class Wrapped(Exception):
    """Has no text of its own."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause

    def __str__(self) -> str:
        return f"wrapped: {self.cause}"


def hides(error: Exception, hidden: Exception) -> Exception:
    """An error as ``raise error from None`` leaves it where another was handled."""
    error.__context__, error.__suppress_context__ = hidden, True
    return error


@pytest.mark.parametrize(
    "make",
    [
        lambda refusal: hides(RuntimeError(f"import failed: {refusal}"), refusal),
        lambda refusal: RuntimeError(refusal),
        lambda refusal: RuntimeError("import failed", refusal),
        lambda refusal: RuntimeError(RuntimeError(refusal)),
        lambda refusal: Wrapped(refusal),
        lambda refusal: hides(ExceptionGroup(f"{refusal}", [ValueError(refusal)]), refusal),
        lambda refusal: hides(RuntimeError(refusal.args[0]), refusal),
    ],
    ids=["from None", "argument", "arguments", "nested", "own text", "group", "part"],
)
def test_an_error_that_is_made_of_one_that_is_withheld_does_not_show_it(
    make: Callable[[Exception], Exception], refusal: Exception
):
    error = make(refusal)

    told = shown(error)

    assert ROW not in told
    assert "table people has" not in told  # the driver's words
    assert type(error).__name__ in told


def test_contexts_are_redacted_where_a_traceback_shows_them(refusal: Exception):
    error, hidden = ValueError("on the way"), ValueError("another")
    error.__context__ = refusal
    hidden.__context__ = refusal
    hidden.__suppress_context__ = True

    assert "During handling of the above exception" in shown(error)
    assert ROW not in shown(error)
    assert "sqlite3" not in shown(hidden)


def test_the_members_of_groups_are_redacted_with_their_stacks(refusal: Exception):
    fault = raised_by(lambda: int("a fault of ours"))
    group = ExceptionGroup("tasks", [fault, ExceptionGroup("inner", [refusal])])
    outer = RuntimeError("outer")
    outer.__cause__ = group

    told = shown(outer)

    assert ROW not in told
    assert "a fault of ours" in told
    assert "ExceptionGroup: tasks (2 sub-exceptions)" in told
    assert "in refuse\n" in told


def test_a_circle_of_causes_ends(refusal: Exception):
    error = ValueError("first")
    error.__cause__ = second = ValueError("second")
    second.__cause__ = error
    second.__context__ = refusal

    assert ROW not in shown(error)


def test_a_drivers_own_error_is_withheld_without_sqlalchemy():
    assert ROW not in shown(sqlite3.IntegrityError(f"Key (email)=({ROW}) already exists."))


def test_the_filter_redacts_a_record_for_any_formatter_and_its_message_too(refusal: Exception):
    """asyncio's own record of a task that was not awaited quotes the error in its message."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    record = logging.LogRecord(
        "asyncio",
        logging.ERROR,
        __file__,
        1,
        "future: <Task exception=%r>",
        (refusal,),
        (type(refusal), refusal, None),
    )

    handler.handle(record)

    assert "future: <Task exception=OperationalError SQLITE_ERROR (its message" in stream.getvalue()
    assert ROW not in stream.getvalue()


@pytest.mark.parametrize("make", [lambda refusal: refusal, lambda refusal: ValueError(f"{refusal}")])
def test_an_error_that_is_an_argument_of_the_message_is_redacted(
    make: Callable[[Exception], Exception], refusal: Exception
):
    """``log.error("failed: %s", error)`` has no traceback, and says the same."""
    error = make(refusal)
    error.__cause__ = None if error is refusal else refusal
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed: %s", (error,), None)

    RedactingFilter().filter(record)

    told = "failed: OperationalError SQLITE_ERROR (its message may hold data and is withheld)"
    assert record.getMessage() == told


def test_records_without_exceptions_pass_untouched():
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%s", ("hello",), None)

    assert RedactingFilter().filter(record)
    assert (record.msg, record.args, record.exc_info) == ("%s", ("hello",), None)


@pytest.mark.parametrize(
    "error", [OSError(2, "no file"), KeyError("k"), UnicodeDecodeError("u", b"", 0, 1, "r")]
)
def test_errors_of_pythons_own_can_be_copied(error: Exception, refusal: Exception):
    error.__cause__ = refusal

    assert type(redacted(error)) is type(error)
    assert ROW not in shown(error)


def test_cancellation_can_be_copied(refusal: Exception):
    error = asyncio.CancelledError("why")
    error.__context__ = refusal

    assert isinstance(redacted(error), asyncio.CancelledError)


def test_the_class_of_what_is_withheld_is_not_the_drivers(refusal: Exception):
    """asyncpg registers each class that is made of its own, and refuses one of a name that is taken."""
    assert not isinstance(redacted(refusal), IntegrityError)
