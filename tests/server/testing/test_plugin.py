"""The kit's plugin fails a test without being asked; each of these is run by a pytest of its own."""

from __future__ import annotations

import textwrap

import pytest

from server.testing import pytest_tornado
from tests.fixtures.inner import ROOT, UNUSED

CONFTEST = """
import pytest
from sqlalchemy import MetaData
from server.testing import databases
databases.IDLE_S = 0.2

@pytest.fixture(scope="session")
def database_schema():
    return MetaData()
"""

TESTS = """
import logging
import pytest
from db import Database

kept = []

def ask(session):
    return session.connection().exec_driver_sql("SELECT 1").scalar()

@pytest.mark.gen_test
async def test_unit(database):
    kept.append(unit := database.unit_of_work(label="a job"))
    await unit.run(ask, unit.session)

def test_connection(database):
    kept.append(database.writer.engine.connect())

def test_database(database_settings):
    kept.append(Database(database_settings))
    with kept[-1].session_scope() as session:
        ask(session)

def test_error():
    logging.getLogger("onfinish.handlers").error("look at this")

def test_error_that_is_expected(expect_log):
    with expect_log("onfinish", "look at"):
        logging.getLogger("onfinish.handlers").error("look at this")

def test_of_other_code():
    logging.getLogger("some.where").error("look at this")

def test_of_a_session(session):
    ask(session)
    session.commit()

def test_that_fails(database):
    kept.append(database.writer.engine.connect())
    assert False
"""


def test_what_is_left_open_fails_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Each kind, in words that lead to it; and nothing else does, nor twice."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=textwrap.dedent(TESTS))

    result = pytester.runpytest_subprocess(
        "-p", pytest_tornado.__name__, *(f"-pno:{name}" for name in UNUSED)
    )

    result.assert_outcomes(passed=7, failed=1, errors=4)
    for message in (
        "unit of work not settled: a job, in SELECT 1",
        "connections of the writer not given back to their pool: 1",
        "a Database with open connections: `await database.close()` was not called",
        "ERROR onfinish.handlers: look at this",
    ):
        result.stdout.fnmatch_lines([message])
