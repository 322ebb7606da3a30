"""The forms that the report shows side by side are run, and do the same."""

from __future__ import annotations

from importlib import import_module

import pytest
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.scope import SCOPES
from handlers import log_request
from server.compare import forms
from server.compare.code import code
from server.compare.model import Base
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Serve
from tests.handlers import custody

ENTRY = {"text": "store"}


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """In threads: that of the loop has one thread-local session for all requests."""
    return DatabaseSettings(url=database_url, executor="threads")


@pytest.fixture
def database(database: Database) -> Database:
    """The test's database, with the comparison's table beside the kernel's."""
    with database.writer.engine.begin() as connection:
        Base.metadata.create_all(connection)
    return database


@pytest.mark.gen_test
@pytest.mark.parametrize("scope", SCOPES)
async def test_each_form_writes_and_counts(scope: str, serve: Serve, database: Database, sql: RawSql):
    """Two requests are numbered 1 and 2, and kept; under the thread-local they are acknowledged and lost."""
    form = import_module(f"{forms.__name__}.{scope}")
    sessions = getattr(form, "sessions", None)
    if sessions is not None:
        sessions.configure(bind=database.writer.engine)
    client = serve(Application([("/", form.NumberHandler)], database=database, log_function=log_request))
    try:
        answers = [await client.post("/", ENTRY) for _ in range(1 if scope == "threadlocal" else 2)]
    finally:
        if scope == "threadlocal":
            form.threads.close()

    assert [answer.code for answer in answers] == [201] * len(answers)
    assert [answer.json()["number"] for answer in answers] == [1, 2][: len(answers)]
    assert len(sql("SELECT id FROM entries")) == (0 if scope == "threadlocal" else 2)
    assert custody.lent(database) == {}


def test_what_is_counted_in_the_code_is_there():
    """An explicit session is a parameter of each model function, and an argument at each call."""
    counted = {scope: code(scope) for scope in SCOPES}

    assert counted["explicit"]["parameters"] == counted["contextvar"]["parameters"] + 2
    assert counted["explicit"]["arguments"] == counted["contextvar"]["arguments"] + 2
    assert counted["explicit"]["lines"] < counted["contextvar"]["lines"]
    last = 'self.write_json({"number": number}, 201)'
    assert all(one["source"].rstrip().endswith(last) for one in counted.values())
