"""Runs Tornado's own tests once, in a process of their own: their result is one JSON document on stdout.

::

    python -m tests.tornado_suite DATABASE_FILE [--insert] [NAME …]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
import sys
import time
import unittest
from pathlib import Path
from typing import Any

from tests.tornado_suite.shim import TABLE, Databases, session_handlers

MODULES = (
    "web",
    "httpserver",
    "simple_httpclient",
    "httpclient",
    "routing",
    "websocket",
    "auth",
    "testing",
    "wsgi",
    "circlerefs",
)


class SuiteResult(unittest.TestResult):
    """What became of each test, by its name. Lives as long as one run."""

    def __init__(self, databases: Databases) -> None:
        super().__init__()
        self.faults: dict[str, str] = {}
        self._databases = databases

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        """Note a failure."""
        super().addFailure(test, err)
        self._note(test, self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        """Note an error, of a test or of its `tearDown`."""
        super().addError(test, err)
        self._note(test, self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        """Note a failure of a part of a test."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, (self.failures + self.errors)[-1][1])

    def stopTest(self, test: unittest.TestCase) -> None:
        """The test has ended, with its `tearDown`: its connections are closed."""
        super().stopTest(test)
        self._databases.close()

    def _note(self, test: unittest.TestCase, text: str) -> None:
        name = test.id().removeprefix("tornado.test.")
        self.faults[name] = self.faults.get(name, "") + text


def run(file: Path, *, inserts: bool, names: list[str]) -> dict[str, Any]:
    """Run all tests of the modules, or those named alone."""
    databases = Databases(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(TABLE)
    result = SuiteResult(databases)
    with session_handlers(databases, inserts=inserts) as import_tests:
        modules = [import_tests(f"tornado.test.{module}_test") for module in MODULES]
        loader = unittest.defaultTestLoader
        if names:
            suite = loader.loadTestsFromNames([f"tornado.test.{name}" for name in names])
        else:
            suite = unittest.TestSuite(map(loader.loadTestsFromModule, modules))
        began_at = time.monotonic()
        suite.run(result)
        took_s = time.monotonic() - began_at
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM requests").fetchone()
    return {
        "run": result.testsRun,
        "skipped": {test.id().removeprefix("tornado.test."): why for test, why in result.skipped},
        "faults": result.faults,
        "rows": rows,
        "took_s": round(took_s, 1),
    }


def main() -> None:
    """Run, and print the result."""
    parser = argparse.ArgumentParser(description="Tornado's own tests, with SessionHandler in place")
    parser.add_argument("file", type=Path, help="a SQLite file to be made")
    parser.add_argument("--insert", action="store_true", help="each request does an INSERT")
    parser.add_argument("name", nargs="*", help="tests alone, such as web_test.ErrorResponseTest")
    given = parser.parse_args()
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # as Tornado's own runner has it
    json.dump(run(given.file, inserts=given.insert, names=given.name), sys.stdout)


if __name__ == "__main__":
    main()
