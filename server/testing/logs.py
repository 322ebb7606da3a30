"""What is logged during a test, and what of it was not expected."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from unittest import mock

ExpectLog = Callable[..., AbstractContextManager[list[logging.LogRecord]]]


class Ear:
    """Hears every log record of one test, whatever handlers and levels the code under test sets up.

    Lives as long as the test. Records may come from any thread.

    Args:
        logger_name: records of this logger, or of one below it, are to be expected; "" is any.
        level: the least level of those.
    """

    def __init__(self, logger_name: str = "", level: int = logging.WARNING) -> None:
        self.unexpected: list[logging.LogRecord] = []
        self._name = logger_name
        self._level = level
        self._expectations: list[Callable[[logging.LogRecord], bool]] = []

    def hear(self, record: logging.LogRecord) -> None:
        """Give the record to those that expect it; else keep it as unexpected."""
        # All of them, not the first only: two may wait for the same record.
        expected = [expectation(record) for expectation in list(self._expectations)]
        if not any(expected) and record.levelno >= self._level and _is_of(self._name, record):
            self.unexpected.append(record)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what is logged in the block."""
        call_handlers = logging.Logger.callHandlers

        def heard(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.hear(record)
            call_handlers(logger, record)

        # At the class, for what configures logging replaces handlers and stops propagation.
        with mock.patch.object(logging.Logger, "callHandlers", heard):
            yield

    @contextlib.contextmanager
    def expect(
        self, logger_name: str, regex: str, *, level: int = logging.WARNING, required: bool = True
    ) -> Iterator[list[logging.LogRecord]]:
        """Permit, and require, records in the block.

        Args:
            logger_name: the logger's or of one above it; ``""`` is any.
            regex: searched for in the message, and in the traceback below it.
            level: the least level that counts. The logger is opened for it, so INFO can be asked for.
            required: False permits only.

        Returns:
            The records that matched, growing while the block runs.

        Raises:
            AssertionError: a record was required, and there was none.
        """
        matched: list[logging.LogRecord] = []

        def expectation(record: logging.LogRecord) -> bool:
            if not _is_of(logger_name, record):
                return False
            if record.levelno < level or not re.search(regex, _whole(record)):
                return False
            matched.append(record)
            return True

        logger = logging.getLogger(logger_name)
        before = logger.level
        if not logger.isEnabledFor(level):
            logger.setLevel(level)
        self._expectations.append(expectation)
        try:
            yield matched
        finally:
            self._expectations.remove(expectation)
            logger.setLevel(before)
        if required and not matched:
            heard = "\n".join(map(in_words, self.unexpected)) or "nothing"
            raise AssertionError(
                f"no record of {logger_name or 'any logger'!r} matched {regex!r}; unexpected were:\n{heard}"
            )


def _is_of(logger_name: str, record: logging.LogRecord) -> bool:
    """Whether a logger, or one below it, has made a record."""
    return not logger_name or f"{record.name}.".startswith(f"{logger_name}.")


def _whole(record: logging.LogRecord) -> str:
    """A record's message, and the traceback that it carries."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[0]:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info))
    return message


def in_words(record: logging.LogRecord) -> str:
    """A record as a line, with the exception that it carries."""
    text = f"{record.levelname} {record.name}: {record.getMessage()}"
    if record.exc_info and record.exc_info[0]:
        text += f" ({record.exc_info[0].__name__}: {record.exc_info[1]})"
    return text
