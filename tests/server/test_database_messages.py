"""The service in development, and elsewhere, where its schema lacks a column that a statement names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.process import ServerProcess, StartServer

PATH = "/shelves"

Start = Callable[[str], ServerProcess]

pytestmark = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def start(database_url: str, sql: RawSql, shelves: None, start_server: StartServer) -> Start:
    def start(environment: str) -> ServerProcess:
        server = start_server(url=database_url, environ={"ENVIRONMENT": environment, "PORT": "0"})
        sql("ALTER TABLE shelves RENAME COLUMN name TO title")
        return server

    return start


def test_in_development_log_and_answer_tell_the_databases_message_and_the_statement(start: Start):
    server = start("development")

    answer = server.request("GET", PATH)

    assert (answer.status, answer.body["detail"]) == (500, "the server failed to answer this request")
    debug = answer.body["debug"]
    assert "shelves.name" in debug["error"]
    assert debug["statement"].startswith("SELECT")
    assert "tests/service/model.py:" in debug["line"]
    assert "[SQL: SELECT" in server.err
    assert debug["error"].partition("\n")[0].partition(": ")[2] in server.err


def test_elsewhere_neither_does(start: Start):
    server = start("testing")

    answer = server.request("GET", PATH)

    assert answer.status == 500
    assert "debug" not in answer.body
    assert "its message may hold data and is withheld" in server.err
    assert "shelves.name" not in server.err
    assert "SELECT" not in server.err
