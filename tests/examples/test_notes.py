"""The application of twenty lines that the README shows."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest
from tornado.web import Application

from tests.examples.notes import Base, NotesHandler
from tests.fixtures.waiting import wait_until


def form(**fields: str) -> bytes:
    return urlencode(fields).encode()


async def post_note(client, text):
    return await post_form(client, text=text)


async def post_form(client, **fields):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await client.post("/notes", form(**fields), headers=headers)


@pytest.mark.gen_test
async def test_it_runs_as_a_module_and_keeps_notes(start_example):
    """Nothing of the board is in it, and nothing of it has to be adapted."""
    client = start_example("notes")

    created = await post_note(client, "buy milk")

    assert (created.code, created.json()) == (201, 1)
    assert (await client.get("/notes")).json() == ["buy milk"]


@pytest.fixture
def empty_url(postgres_cluster):
    """A database that was never migrated."""
    name = postgres_cluster.create_database()
    yield postgres_cluster.url_for(name)
    assert wait_until(lambda: not postgres_cluster.connections_to(name), timeout_s=10)
    postgres_cluster.drop_database(name)


@pytest.mark.gen_test
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_lost_commit_is_answered_by_what_became_of_it(
    empty_url, start_example, make_proxy, postgres_cluster
):
    """It migrates the kernel's tables beside its own: PostgreSQL is asked, and the outcome is not unknown."""
    proxy = make_proxy(("127.0.0.1", postgres_cluster.port))
    url = empty_url.replace(f":{postgres_cluster.port}/", f":{proxy.port}/")
    client = start_example("notes", url=url)
    assert (await post_note(client, "warm")).code == 201
    proxy.cut_at(b"COMMIT", delivered=True)

    answer = await post_note(client, "buy milk")

    assert (answer.code, answer.json()) == (201, 2)
    assert (await client.get("/notes")).json() == ["warm", "buy milk"]


@pytest.fixture
def client(database, serve):
    Base.metadata.create_all(database.writer.scopes)
    return serve(Application([("/notes", NotesHandler)], database=database))


@pytest.mark.gen_test
async def test_a_note_that_exists_is_refused_and_the_refusal_undone(client, sql, expect_log):
    """The constraint's refusal is an answer, without a line of error handling."""
    assert (await post_note(client, "buy milk")).code == 201

    with expect_log("tornado.access", "409 POST /notes"):
        again = await post_note(client, "buy milk")

    assert again.code == 409
    assert again.json()["outcome"] == "not_applied"
    assert sql("SELECT count(*) AS n FROM notes") == [{"n": 1}]


@pytest.mark.gen_test
async def test_a_field_that_is_missing_is_a_bad_request(client, sql, expect_log):
    """Tornado's own errors are problems too."""
    with expect_log("tornado.access", "400 POST /notes"):
        answer = await post_form(client, title="buy milk")

    assert answer.code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert sql("SELECT count(*) AS n FROM notes") == [{"n": 0}]


@pytest.mark.gen_test
async def test_notes_that_overlap_are_all_kept(client, sql):
    """Each request has a session of its own, in an application of twenty lines as well."""
    answers = await asyncio.gather(*(post_note(client, f"note {number}") for number in range(40)))

    assert {answer.code for answer in answers} == {201}
    assert len({answer.json() for answer in answers}) == 40
    assert sql("SELECT count(*) AS n FROM notes") == [{"n": 40}]


@pytest.mark.gen_test
async def test_its_pages_show_what_its_requests_do_and_did(start_example):
    """Two lines of it: what is open now, and each statement of a request that has ended, with its line."""
    client = start_example("notes")
    form_of = {"Content-Type": "application/x-www-form-urlencoded", "X-Request-Id": "milk.1"}
    await client.post("/notes", form(text="buy milk"), headers=form_of)

    live = await client.get("/-/live.txt")
    [request] = (await client.get("/-/requests/milk.1.json")).json()["requests"]
    page = await client.get("/-/requests/milk.1", headers={"Accept": "text/html"})

    assert b"open units of work: 0" in live.body
    assert (request["name"], request["status"], request["outcome"]) == ("POST /notes", 201, "kept")
    [unit] = request["units"]
    lines = [each["line"]["text"] for each in unit["statements"] if each["counts"] and each["line"]]
    assert lines == ["session.flush()"]
    assert unit["commit"] is not None
    assert b"INSERT INTO notes" in page.body
