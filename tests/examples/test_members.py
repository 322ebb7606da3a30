"""A log-in check in prepare() checks: a redirected request has written nothing but its knock."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from tornado.web import Application

from tests.examples.members import ROUTES, Base

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def client(database, serve):
    Base.metadata.create_all(database.writer.scopes)
    return serve(Application(ROUTES, database=database))


async def post(client, path, *, headers=FORM, **fields):
    return await client.post(path, urlencode(fields).encode(), headers=headers)


async def log_in(client, name):
    answer = await post(client, "/login", name=name)
    assert answer.code == 302
    return FORM | {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


@pytest.mark.gen_test
@pytest.mark.parametrize("cookie", [{}, {"Cookie": "token=forged"}], ids=["no cookie", "forged"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stranger_is_redirected_and_the_method_never_runs(client, sql, method, cookie):
    """The write before the redirect is kept; no line of get() or post() ran."""
    body = urlencode({"text": "I was here"}).encode() if method == "POST" else None

    answer = await client.request(method, "/book", body, headers=FORM | cookie)

    assert (answer.code, answer.headers["Location"], answer.body) == (302, "/login", b"")
    assert sql("SELECT path FROM knocks") == [{"path": "/book"}]
    assert sql("SELECT text FROM entries") == []


@pytest.mark.gen_test
async def test_a_member_is_let_in(client, sql):
    """The check and the work of the method are one transaction."""
    headers = await log_in(client, "Ada")

    welcome = await client.get("/book", headers=headers)
    answer = await post(client, "/book", headers=headers, text="I was here")

    assert (welcome.code, welcome.body) == (200, b"Welcome, Ada\n")
    assert (answer.code, answer.headers["Location"]) == (302, "/book")
    assert sql("SELECT text FROM entries") == [{"text": "Ada: I was here"}]
    assert sql("SELECT path FROM knocks") == []


@pytest.mark.gen_test
async def test_a_member_whose_post_fails_has_written_nothing(client, sql, expect_log):
    """What is refused after the check is undone."""
    headers = await log_in(client, "Ada")

    with expect_log("tornado.access", "400 POST /book"):
        answer = await post(client, "/book", headers=headers, title="I was here")

    assert answer.code == 400
    assert sql("SELECT text FROM entries") == []


@pytest.mark.gen_test
async def test_it_runs_as_a_module(start_example):
    """On a database that has none of its tables yet."""
    client = start_example("members")

    headers = await log_in(client, "Ada")

    assert (await client.get("/book")).headers["Location"] == "/login"
    assert (await client.get("/book", headers=headers)).code == 200
