"""The write that gets lost, as the README has it, on both databases."""

from __future__ import annotations

import inspect
from urllib.parse import urlencode

import pytest
from tornado.web import Application

from tests.examples import lost_write, notes


@pytest.fixture
def engine(database):
    notes.Base.metadata.create_all(database.writer.scopes)
    return database.writer.scopes


async def post_twice(client) -> list[int]:
    """The same note two times; the statuses that the clients read."""
    form = urlencode({"text": "buy milk"}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return [(await client.post("/notes", form, headers=headers)).code for _ in range(2)]


@pytest.mark.gen_test
async def test_the_naive_form_tells_201_and_loses_the_write(engine, serve, sql, expect_log):
    """The loss is real."""
    client = serve(Application([("/notes", lost_write.NaiveNotesHandler)], engine=engine))

    with expect_log("", "", level=40) as errors:
        statuses = await post_twice(client)

    assert statuses == [201, 201]
    assert sql("SELECT text FROM notes") == [{"text": "buy milk"}]
    assert errors[0].exc_info is not None
    assert type(errors[0].exc_info[1]).__name__ == "IntegrityError"


@pytest.mark.gen_test
async def test_the_same_method_on_a_session_handler_is_refused(engine, database, serve, sql, expect_log):
    """Held until COMMIT, dropped when that failed."""
    client = serve(Application([("/notes", lost_write.HeldNotesHandler)], database=database))

    with expect_log("tornado.access", "409 POST /notes"):
        statuses = await post_twice(client)

    assert statuses == [201, 409]
    assert sql("SELECT text FROM notes") == [{"text": "buy milk"}]


def test_both_forms_have_the_same_method():
    """What differs is the class they stand on, and nothing else."""
    naive, held = lost_write.NaiveNotesHandler, lost_write.HeldNotesHandler

    assert inspect.getsource(naive.post) == inspect.getsource(held.post)
