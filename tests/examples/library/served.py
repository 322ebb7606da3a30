"""The library as its clone serves it, where this is ``tests/server/library/test_served.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fixtures.process import ROOT

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def service_module():
    return "server"


def test_a_member_that_the_command_has_added_borrows_a_book(database_url, start_server, sql):
    added = subprocess.run(
        [sys.executable, "-m", "server", "member", "Ada", "--database-url", database_url],
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        input="correct horse\n",
        text=True,
        check=False,
        capture_output=True,
    )
    assert added.returncode == 0, added.stderr
    server = start_server(url=database_url)
    connection = server.connect()

    def post(path: str, body: Any, **headers: str) -> Any:
        connection.request("POST", path, json.dumps(body), JSON | headers)
        answer = connection.getresponse()
        answer.read()
        return answer

    login = post("/login", {"name": "Ada", "password": "correct horse"})
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    added_book = post("/books", {"title": "Emma"}, Cookie=cookie)
    lent = post("/loans", {"book_id": 1}, Cookie=cookie)
    connection.close()

    assert (login.status, added_book.status, lent.status) == (204, 201, 201)
    assert sql("SELECT title FROM library_books") == [{"title": "Emma"}]
    assert server.request("GET", "/readyz").status == 200
    assert server.request("GET", "/openapi.json").body["info"]["title"] == "A lending library"
