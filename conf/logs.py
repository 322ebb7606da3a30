"""The log: one handler, lines to read or one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, TextIO

from conf.masks import mask_text
from conf.outlet import Outlet
from conf.redaction import redact, redacted
from conf.settings import LogSettings

# The attributes of every record; others came with ``extra=`` and belong into the JSON.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# A line feed could forge a line, an escape could rewrite the terminal; both may come from a client.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_FLUSH_S = 2.0
"""How long the end of the process waits for a log that is not read."""


class LogHandler(logging.StreamHandler[TextIO]):
    """The handler that ``set_up_logs`` adds to the root logger, and removes when it is called again.

    It writes to a pipe, a socket or a terminal through an `Outlet`, so that no caller waits for a reader.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._outlet = Outlet(stream.fileno(), gap=self._gap) if _has_reader(stream) else None

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record and write it; what cannot be written is dropped, as `logging` does it."""
        if self._outlet is None:
            super().emit(record)
            return
        try:
            self._outlet.write(self._bytes(record))
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  # as logging's own handlers: a log that fails stops no request
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all is written, for two seconds at most."""
        if self._outlet is None:
            super().flush()
        else:
            self._outlet.flush(_FLUSH_S)

    def close(self) -> None:
        """Release its resources; the stream is not among them."""
        if self._outlet is not None:
            self._outlet.close()
        super().close()

    def _bytes(self, record: logging.LogRecord) -> bytes:
        text = self.format(record) + self.terminator
        return text.encode(self.stream.encoding, self.stream.errors or "strict")

    def _gap(self, missing: int) -> bytes:
        text = "%d records were not logged: what reads the log was too slow, or stood still"
        record = logging.LogRecord("onfinish.log", logging.WARNING, __file__, 0, text, (missing,), None)
        return self._bytes(record)


def _shows_colours(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours, and these are wanted: https://no-color.org."""
    wanted = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def _has_reader(stream: TextIO) -> bool:
    """Whether a write to the stream may wait for its reader; a write to a file or to memory does not."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # none at all, or one without a descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def set_up_logs(
    settings: LogSettings, *, stream: TextIO | None = None, with_process: bool = False
) -> LogHandler:
    """Log to ``stream``, the standard error if None, as the settings specify.

    Changes the root logger. May be called again, for example in a forked child: the last call is in force.
    Other handlers, such as pytest's, are left as they are.

    Args:
        settings: what is logged, and how.
        stream: where to.
        with_process: lines contain the process id, where several write to one stream; JSON always does.
    """
    handler = LogHandler(stream or sys.stderr)
    shown = settings.database_messages
    as_lines = LineFormatter(
        with_process=with_process, database_messages=shown, colours=_shows_colours(handler.stream)
    )
    handler.setFormatter(JsonFormatter(database_messages=shown) if settings.format == "json" else as_lines)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LogHandler)]:
        root.removeHandler(old)
        old.flush()
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    # At INFO it logs which dialect it uses, twice a migration.
    logging.getLogger("alembic").setLevel(logging.DEBUG if settings.level == "debug" else logging.WARNING)
    # With database.echo SQLAlchemy adds a handler to it, unless it has one: each line was logged twice.
    engine_log = logging.getLogger("sqlalchemy.engine.Engine")
    if not engine_log.handlers:
        engine_log.addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    return handler


class RedactingFormatter(logging.Formatter):
    """Formats exceptions without the data in a database's messages. Lives as long as its handler.

    The record itself is redacted: handlers that come later, such as an error tracker's, get it redacted too.

    Args:
        database_messages: exceptions are formatted unredacted.
    """

    def __init__(self, *, database_messages: bool = False) -> None:
        super().__init__()
        self._redacts = not database_messages


class LineFormatter(RedactingFormatter):
    """A record as a line to read. Lives as long as its handler.

    The time is local, since lines are for a terminal on the same machine. All but the first line of a record
    are indented, so that nothing in a message can pass for a record of its own.

    Args:
        with_process: each line has the process id.
        database_messages: as of `RedactingFormatter`.
        colours: the stream is a terminal. A message's own escapes are shown as text all the same.
    """

    def __init__(
        self, *, with_process: bool = False, database_messages: bool = False, colours: bool = False
    ) -> None:
        super().__init__(database_messages=database_messages)
        self._with_process = with_process
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        if self._redacts:
            redact(record)
        time = datetime.fromtimestamp(record.created).astimezone()
        message = record.getMessage().translate(_CONTROLS)
        if record.exc_info or record.stack_info:
            message += "\n" + _trace(self, record)
        process = f"[{record.process}] " if self._with_process else ""
        head = f"{time:%H:%M:%S}.{int(record.msecs):03d} {process}{record.levelname:<7} {record.name}: "
        message = message.replace("\n", "\n    ")
        return _painted(record, head, message) if self._colours else head + message


_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_LEVELS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31;1m", "CRITICAL": "\x1b[31;1m"}
_STATUSES = {"2": "\x1b[32m", "3": "\x1b[36m", "4": "\x1b[33m", "5": "\x1b[31;1m"}
_ACCESS_LINE = re.compile(r"(\d)\d\d \S+ \S+")


def _painted(record: logging.LogRecord, head: str, message: str) -> str:
    """A line for a terminal: what is the same on each line is dim, a status has the colour of its class."""
    access = _ACCESS_LINE.match(message) if record.name == "tornado.access" else None
    if access is not None:
        colour = _STATUSES.get(access[1], "")
        status, rest = message[:3], message[access.end() :]
        return f"{_DIM}{head}{_RESET}{colour}{status}{_RESET}{access[0][3:]}{_DIM}{rest}{_RESET}"
    colour = _LEVELS.get(record.levelname, "")
    return f"{_DIM}{head}{_RESET}{colour}{message}{_RESET if colour else ''}"


class JsonFormatter(RedactingFormatter):
    """A record as one JSON object in one line of ASCII. Lives as long as its handler.

    ``time`` (UTC), ``level``, ``logger``, ``message``, ``process``, whatever came with ``extra``, and for an
    exception ``error`` (its class) and ``traceback``.
    """

    def __init__(self, *, database_messages: bool = False) -> None:
        super().__init__(database_messages=database_messages)
        self._encoder = json.JSONEncoder(default=self._text_of, allow_nan=False)

    def format(self, record: logging.LogRecord) -> str:
        if self._redacts:
            redact(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level, message, process = record.levelname.lower(), record.getMessage(), record.process
        if not (record.exc_info or record.stack_info) and vars(record).keys() <= _STANDARD:
            # An access line, and most others: the encoder itself takes thrice as long.
            return (
                f'{{"time": "{time}", "level": {_quoted(level)}, "logger": {_quoted(record.name)}, '
                f'"message": {_quoted(message)}, "process": {"null" if process is None else process}}}'
            )
        entry: dict[str, Any] = {
            "time": time,
            "level": level,
            "logger": record.name,
            "message": message,
            "process": process,
        }
        entry |= {
            key: value for key, value in vars(record).items() if key not in _STANDARD and key not in entry
        }
        if record.exc_info or record.stack_info:
            kind = record.exc_info[0] if record.exc_info else None
            entry |= {"error": kind.__qualname__ if kind else None, "traceback": _trace(self, record)}
        try:
            return self._encoder.encode(entry)
        except (
            TypeError,
            ValueError,
        ):  # NaN is no JSON, nor is a tuple for a key: such an extra is written as text
            return json.dumps(
                {
                    key: value if isinstance(value, (str, int)) else self._text_of(value)
                    for key, value in entry.items()
                }
            )

    def _text_of(self, extra: object) -> str:
        return str(redacted(extra) if self._redacts and isinstance(extra, BaseException) else extra)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback and the stack; a driver's message in them may hold the URL it was given."""
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return mask_text("\n".join(parts))
