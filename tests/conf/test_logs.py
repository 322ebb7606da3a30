"""One handler; lines to read, or one JSON object a line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import pty
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from conf import LogSettings
from conf.logs import JsonFormatter, LineFormatter, LogHandler, set_up_logs
from conf.program import PREFIX
from tests.fixtures.logs import ExpectLog

ROOT = Path(__file__).parents[2]

Lines = Callable[[], list[str]]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards as it was."""
    root = logging.getLogger()
    level, alembic = root.level, logging.getLogger("alembic").level
    yield root
    for handler in [handler for handler in root.handlers if isinstance(handler, LogHandler)]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(alembic)
    logging.captureWarnings(False)


def record(message: str = "hello", **extra: Any) -> logging.LogRecord:
    """A record as a logger makes it."""
    return logging.makeLogRecord(
        {"name": "onfinish", "msg": message, "levelno": 20, "levelname": "INFO"} | extra
    )


def failure(message: str) -> dict[str, Any]:
    """What ``logger.exception`` adds to a record."""
    try:
        raise ValueError(message)
    except ValueError as exc:
        return {"exc_info": (type(exc), exc, exc.__traceback__)}


def test_the_format_and_the_level_are_the_settings(root: logging.Logger, expect_log: ExpectLog) -> None:
    stream = io.StringIO()
    set_up_logs(LogSettings(level="warning", format="json"), stream=stream)
    with expect_log("onfinish", "but this"):
        logging.getLogger("onfinish").info("not this")
        logging.getLogger("onfinish").warning("but %s", "this")

    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "but this"


def test_a_second_call_replaces_the_first_and_leaves_the_handlers_of_others(root: logging.Logger) -> None:
    others = list(root.handlers)
    first, second = io.StringIO(), io.StringIO()
    set_up_logs(LogSettings(), stream=first)
    set_up_logs(LogSettings(), stream=second)
    logging.getLogger("onfinish").info("once")

    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert [handler for handler in root.handlers if not isinstance(handler, LogHandler)] == others


def test_warnings_are_logged(root: logging.Logger, expect_log: ExpectLog) -> None:
    stream = io.StringIO()
    with warnings.catch_warnings(), expect_log("py.warnings", "old age"):
        warnings.simplefilter("always")
        set_up_logs(LogSettings(), stream=stream)
        warnings.warn("old age", DeprecationWarning, stacklevel=1)

    assert "WARNING py.warnings: " in stream.getvalue()


def test_a_line_has_time_level_logger_and_message() -> None:
    line = LineFormatter().format(record(created=0.0, msecs=7.0))

    assert line[8:] == ".007 INFO    onfinish: hello"


@given(message=st.text())
def test_nothing_in_a_message_passes_for_a_line_of_its_own(message: str) -> None:
    first, *rest = LineFormatter().format(record("%s", args=(message,))).split("\n")

    assert first.isprintable() or not message.isprintable()
    assert all(line.startswith("    ") for line in rest)
    assert not {"\r", "\x1b", "\x85", "\x0b"} & set("".join([first, *rest]))


@given(
    message=st.text(),
    value=st.recursive(
        st.none() | st.floats() | st.text() | st.binary() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
    ),
)
def test_json_is_one_line_of_json_whatever_is_logged(message: str, value: Any) -> None:
    line = JsonFormatter().format(record("%s", args=(message,), detail=value))

    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line, parse_constant=pytest.fail)["message"] == message


@given(message=st.text(), name=st.text(min_size=1), process=st.none() | st.integers(1))
def test_json_without_extras_is_what_the_encoder_makes_of_it(
    message: str, name: str, process: int | None
) -> None:
    plain = record("%s", args=(message,), name=name, process=process, created=0.0)
    line = JsonFormatter().format(plain)

    expected = {"time": "1970-01-01T00:00:00.000+00:00", "level": "info", "logger": name, "message": message}
    assert line == json.dumps({**expected, "process": process})


def test_json_has_the_extras_and_no_extra_displaces_what_every_line_has() -> None:
    entry = json.loads(
        JsonFormatter().format(record(created=0.0, request_id="abc", duration_ms=1.5, level="forged"))
    )

    assert entry["time"] == "1970-01-01T00:00:00.000+00:00"
    assert (entry["request_id"], entry["duration_ms"], entry["level"]) == ("abc", 1.5, "info")
    assert isinstance(entry["process"], int)


@pytest.mark.parametrize("other", [1, {(1, 2): "no key of JSON's"}])
def test_an_extra_that_is_a_databases_error_is_redacted(other: Any) -> None:
    error = sqlite3.IntegrityError("Key (email)=(jane@example.org) already exists.")

    line = JsonFormatter().format(record(error=error, other=other))
    whole = JsonFormatter(database_messages=True).format(record(error=error, other=other))

    assert json.loads(line)["error"] == "IntegrityError (its message may hold data and is withheld)"
    assert "jane@" in json.loads(whole)["error"]


def test_an_extra_that_is_no_json_goes_as_text() -> None:
    entry = json.loads(JsonFormatter().format(record(share=math.nan, kept=1)))

    assert (entry["share"], entry["kept"]) == ("nan", 1)


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_a_traceback_is_kept_and_shows_no_password(formatter: logging.Formatter) -> None:
    text = formatter.format(record(**failure("cannot reach postgresql://me:geheim@h/x")))

    assert "ValueError" in text
    assert "postgresql://me:***@h/x" in text
    # The line of source that raised is in the traceback as well, and it holds no more than the message.
    assert "geheim@" not in text


GREEN, YELLOW, RED = "\x1b[32m", "\x1b[33m", "\x1b[31;1m"


def on_terminal(**variables: str) -> str:
    """What a terminal is sent for an access line, a warning, and a message that would move its cursor."""
    code = (
        "import logging, sys\n"
        f"from {PREFIX}conf import LogSettings; from {PREFIX}conf.logs import set_up_logs\n"
        "handler = set_up_logs(LogSettings(level='info'))\n"
        "for status in (201, 404, 503):\n"
        "    logging.getLogger('tornado.access').info('%d GET /tasks (127.0.0.1) 1.20ms read r1', status)\n"
        "logging.getLogger('onfinish').warning('slow')\n"
        "logging.getLogger('onfinish').info('\\x1b[2J')\n"
        "handler.flush()"
    )
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as run:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 65_536):
                shown += piece
        assert run.wait(30) == 0
    os.close(ours)
    return shown.decode()


def test_on_a_terminal_a_status_has_the_colour_of_its_class_and_a_warning_its_own() -> None:
    """A message's own escapes are text all the same."""
    shown = on_terminal()

    assert f"{GREEN}201\x1b[0m GET /tasks" in shown
    assert f"{YELLOW}404\x1b[0m" in shown
    assert f"{RED}503\x1b[0m" in shown
    assert f"{YELLOW}slow\x1b[0m" in shown
    assert "\x1b[2J" not in shown
    assert "\\x1b[2J" in shown


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_colours_are_not_wanted_there_are_none(variables: dict[str, str]) -> None:
    assert "\x1b" not in on_terminal(**variables).replace("\\x1b", "")
