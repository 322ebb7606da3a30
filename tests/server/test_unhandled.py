"""What is raised where no caller waits is in the log, and holds no rows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fixtures.process import ROOT

ROW = "jane@example.org"

PROGRAM = """
import sqlite3, threading
from conf import LogSettings
from conf.logs import set_up_logs
from server.processes.unhandled import log_unhandled

set_up_logs(LogSettings())
log_unhandled()

def fail():
    raise sqlite3.IntegrityError("Key (email)=(" + "jane@" + "example.org) already exists.")

class Finalized:
    def __del__(self):
        fail()

def in_thread(function):
    thread = threading.Thread(target=function, name="mine")
    thread.start()
    thread.join()
"""


def logged_by(statement: str) -> str:
    """What a process of its own writes to the standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + statement], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("in_thread(fail)", "onfinish.server: raised in the thread mine, which has ended\n"),
        ("Finalized()", "onfinish.server: Exception ignored in: function\n"),
    ],
)
def test_it_is_a_record_of_the_log_without_the_databases_message(statement: str, told: str):
    """Python's own hooks write to the standard error, past the log's format and what it withholds."""
    logged = logged_by(statement)

    assert told in logged
    assert "sqlite3.IntegrityError: IntegrityError (its message may hold data and is withheld)" in logged
    assert ROW not in logged


def test_a_server_does_so():
    program = (
        "import server.processes.lifecycle\n"
        "server.processes.lifecycle.serve = lambda settings: in_thread(fail) or 0\n"
        "threading.excepthook = threading.__excepthook__\n"
        "from server.cli import main\n"
        "main(['serve', '--environment', 'testing'])\n"
    )

    assert "onfinish.server: raised in the thread mine, which has ended" in logged_by(program)


def test_a_thread_that_ends_itself_is_not_logged():
    assert logged_by("in_thread(exit)") == ""
