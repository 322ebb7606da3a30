"""The recipes of docs/recipes.md, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import make_url
from tornado.httputil import HTTPHeaders
from tornado.web import create_signed_value

from conf import DatabaseSettings
from db import Database
from tests.examples.recipes import authorization, forms, idempotency, jobs, login, notes, tenants
from tests.examples.recipes.watched import ROW
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.process import ROOT
from tests.fixtures.server import Answer, Client, Serve
from tests.fixtures.waiting import wait_until

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SECRET = "a secret of the application's configuration"
Headers = dict[str, str]

every_driver = pytest.mark.every_driver("postgresql+asyncpg")


async def send(
    client: Client, path: str, method: str = "POST", headers: Headers = FORM, **form: Any
) -> Answer:
    return await client.request(method, path, urlencode(form).encode(), headers=FORM | headers)


def cookies_of(headers: HTTPHeaders) -> Headers:
    cookies = [SimpleCookie(each) for each in headers.get_list("Set-Cookie")]
    return {"Cookie": "; ".join(f"{name}={each[name].coded_value}" for each in cookies for name in each)}


def signed(name: str, value: str) -> Headers:
    return {"Cookie": f"{name}={create_signed_value(SECRET, name, value).decode()}"}


@pytest.fixture(autouse=True)
def refusals_are_logged(expect_log: ExpectLog) -> Iterator[None]:
    """By Tornado, at WARNING."""
    with (
        expect_log("tornado.access", r"^4\d\d ", required=False),
        expect_log("tornado.general", r"^4\d\d ", required=False),
    ):
        yield


@pytest.fixture
def users(database: Database) -> dict[str, int]:
    """Two users by name, each with its name as the password."""
    database.create_all(login.Base.metadata)
    names = ("Ada", "Bob")
    with database.session_scope() as session:
        users = [login.User(name=name, salt=b"salt", digest=login.digest_of(name, b"salt")) for name in names]
        session.add_all(users)
        session.flush()
        return {user.name: user.id for user in users}


@pytest.fixture
def client(database: Database, users: dict[str, int], serve: Serve) -> Client:
    app = login.make_app(database, SECRET)
    routes = [
        (r"/documents/(\d+)", authorization.DocumentHandler),
        ("/payments", idempotency.PaymentsHandler),
    ]
    app.add_handlers(".*", [*routes])
    return serve(app)


@every_driver
@pytest.mark.gen_test
class TestLogin:
    async def test_a_user_with_the_right_password_is_known_by_the_cookie(self, client: Client):
        answer = await send(client, "/login", name="Ada", password="Ada")

        assert (answer.code, answer.headers["Location"]) == (302, "/")
        home = await client.get("/", headers=cookies_of(answer.headers))
        assert (home.code, home.json()) == (200, {"user": "Ada"})

    @pytest.mark.parametrize(("name", "password"), [("Ada", "Bob"), ("Eve", "Eve"), ("Eve", "")])
    async def test_a_wrong_one_is_refused(self, client: Client, name: str, password: str):
        answer = await send(client, "/login", name=name, password=password)

        assert (answer.code, "Set-Cookie" in answer.headers) == (401, False)

    async def test_without_a_cookie_that_was_signed_here_a_page_leads_to_the_log_in(
        self, client: Client, users: dict[str, int]
    ):
        forged = {
            "Cookie": f"user={create_signed_value('another secret', 'user', str(users['Ada'])).decode()}"
        }
        of_none = signed("user", str(max(users.values()) + 1))

        for headers in ({}, forged, of_none):
            answer = await client.get("/", headers=headers)
            assert (answer.code, answer.headers["Location"]) == (302, "/login?next=%2F")


@every_driver
@pytest.mark.gen_test
async def test_a_user_sees_its_own_documents_and_public_ones_and_changes_its_own(
    client: Client, users: dict[str, int], sql: RawSql
):
    for number, name, public in [(1, "Ada", False), (2, "Bob", False), (3, "Bob", True)]:
        sql(
            "INSERT INTO documents (id, owner_id, is_public, text) VALUES (:id, :owner, :public, 'old')",
            id=number,
            owner=users[name],
            public=public,
        )
    ada = signed("user", str(users["Ada"]))

    read = [(await client.get(f"/documents/{number}", headers=ada)).code for number in (1, 2, 3, 4)]
    written = [
        (await send(client, f"/documents/{number}", "PUT", ada, text="new")).code for number in (1, 2, 3)
    ]

    assert read == [200, 404, 200, 404]
    assert written == [200, 404, 403]
    assert [row["text"] for row in sql("SELECT text FROM documents ORDER BY id")] == ["new", "old", "old"]
    assert (await client.get("/documents/3")).code == 302


@every_driver
@pytest.mark.gen_test
async def test_a_payment_is_made_once_under_its_key_for_each_user(
    client: Client, users: dict[str, int], sql: RawSql
):
    key = {"Idempotency-Key": "k"}
    ada, bob = [key | signed("user", str(users[name])) for name in ("Ada", "Bob")]

    ours = [await send(client, "/payments", headers=ada, cents=5) for _ in range(2)]
    of_bob = await send(client, "/payments", headers=bob, cents=7)
    of_none = await send(client, "/payments", headers=key, cents=5)

    assert [(each.code, each.body) for each in ours] == [(201, ours[0].body)] * 2
    assert (of_bob.code, of_none.code) == (201, 403)
    assert [row["cents"] for row in sql("SELECT cents FROM payments ORDER BY id")] == [5, 7]


@pytest.fixture
def web(database_url: str, sql: RawSql) -> Iterator[str]:
    """The URL of a role that owns no table, and that row security is therefore for."""
    owner = Database(DatabaseSettings(url=database_url))
    owner.create_all(tenants.Base.metadata)
    owner.dispose()
    for statement in ("CREATE ROLE web LOGIN PASSWORD 'web'", *tenants.SECURITY):
        sql(statement)
    yield make_url(database_url).set(username="web", password="web").render_as_string(hide_password=False)
    for statement in ("DROP OWNED BY web", "DROP ROLE web"):
        sql(statement)


@pytest.mark.gen_test
@pytest.mark.parametrize("backend", ["postgresql", "postgresql+asyncpg"], indirect=True)
class TestTenants:
    @pytest.fixture
    def database_settings(self, web: str) -> DatabaseSettings:
        """One connection, which all requests share."""
        return DatabaseSettings(url=web, pool_size=1)

    async def test_each_tenant_reads_and_writes_its_own_rows(
        self, database: Database, serve: Serve, sql: RawSql
    ):
        client = serve(tenants.make_app(database, SECRET))
        of_red, of_blue = signed("tenant", "red"), signed("tenant", "blue")

        written = [await send(client, "/invoices", headers=of_red, text=text) for text in ("one", "two")]
        await send(client, "/invoices", headers=of_blue, text="three")

        assert [answer.code for answer in written] == [200, 200]
        assert (await client.get("/invoices", headers=of_red)).json() == ["one", "two"]
        assert (await client.get("/invoices", headers=of_blue)).json() == ["three"]
        assert (await client.get("/invoices")).code == 401

    async def test_a_unit_of_work_that_entered_no_tenant_sees_and_writes_nothing(
        self, database: Database, sql: RawSql
    ):
        sql("INSERT INTO invoices (tenant, text) VALUES ('red', 'one')")

        async with database.unit_of_work() as unit:
            await unit.run(tenants.enter_tenant, unit.session, tenant="red")
            assert await unit.run(tenants.list_invoices, unit.session) == ["one"]
        async with database.unit_of_work() as unit:
            assert await unit.run(tenants.list_invoices, unit.session) == []


@every_driver
@pytest.mark.gen_test
class TestForms:
    @pytest.fixture
    def page(self, database: Database, serve: Serve) -> Client:
        database.create_all(forms.Base.metadata)
        return serve(forms.make_app(database))

    async def test_a_form_with_its_token_is_accepted_and_one_without_is_not(self, page: Client, sql: RawSql):
        form = await page.get("/guests")
        token = re.search(r'name="_xsrf" value="([^"]+)"', form.body.decode())
        assert token is not None
        cookies = cookies_of(form.headers)

        signed_in = await send(page, "/guests", headers=cookies, name="<Ada>", _xsrf=token[1])
        without = await send(page, "/guests", headers=cookies, name="Eve")

        assert (signed_in.code, signed_in.headers["Location"], without.code) == (302, "/guests", 403)
        assert b"<li>&lt;Ada&gt;</li>" in (await page.get("/guests")).body

    async def test_a_refused_form_is_shown_again_with_what_was_typed(self, page: Client, sql: RawSql):
        sql("INSERT INTO guests (name) VALUES ('Ada')")
        form = await page.get("/guests")
        token = re.search(r'name="_xsrf" value="([^"]+)"', form.body.decode())
        assert token is not None

        again = await send(page, "/guests", headers=cookies_of(form.headers), name="Ada", _xsrf=token[1])

        assert again.code == 409
        for part in (b"There is a guest of this name.", b'value="Ada"', b"<li>Ada</li>"):
            assert part in again.body


@every_driver
@pytest.mark.gen_test
async def test_a_mail_is_sent_by_the_job_once_and_one_of_a_request_that_failed_never(
    database: Database,
    serve: Serve,
    sql: RawSql,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    caplog.set_level(logging.INFO, "mails")
    monkeypatch.setattr("random.uniform", lambda least, most: 0.0005)
    database.create_all(jobs.Base.metadata)
    client = serve(jobs.make_app(database))

    due = [await send(client, "/orders", address=address) for address in ("ada", "bob")]
    refused = await send(client, "/orders", to="eve")
    running = jobs.start_jobs(database)
    done = await asyncio.to_thread(
        wait_until,
        lambda: sql("SELECT id FROM mails WHERE is_sent = :no", no=False) == [],
        timeout_s=20,
    )
    await running.stop()

    assert ([each.code for each in due], refused.code, done) == ([201, 201], 400, True)
    sent = [each.getMessage() for each in caplog.records if each.name == "mails"]
    assert sent == ["to ada", "to bob"]


@pytest.fixture
def watched(database: Database, database_url: str) -> Callable[[str], list[Any]]:
    """``watched("sentry")``: what it has seen of `watched.WORDS`, in a process of its own."""
    database.create_all(notes.Base.metadata)

    def watch(by: str) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.examples.recipes.watched", by, database_url],
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ROW not in done.stdout
        told = json.loads(done.stdout)
        assert told["statuses"] == [201, 409, 500]
        seen: list[Any] = told["seen"]
        return seen

    return watch


@pytest.mark.every_driver
def test_sentry_sees_a_fault_once_its_request_and_the_time_of_commit_and_no_rows(
    watched: Callable[[str], list[Any]],
):
    seen = watched("sentry")

    name = "tests.examples.recipes.sentry.NotesHandler.post"
    [fault] = [each for each in seen if "exception" in each]
    assert (fault["transaction"], fault["tags"]["request_id"]) == (name, "request-2")
    requests = [each for each in seen if each.get("type") == "transaction" and each["transaction"] == name]
    assert [each["tags"]["request_id"] for each in requests] == ["request-0", "request-1", "request-2"]
    assert [len(each["spans"]) for each in requests] == [1, 1, 1]
    [commit] = [each for each in seen if each["transaction"] == "COMMIT"]
    assert commit["contexts"]["trace"]["trace_id"] == requests[0]["contexts"]["trace"]["trace_id"]


@pytest.mark.every_driver
def test_opentelemetry_sees_each_request_with_its_statements_and_commit_below_it_and_no_rows(
    watched: Callable[[str], list[Any]],
):
    spans = watched("opentelemetry")

    requests = [span for span in spans if span["kind"] == "SpanKind.SERVER"]
    ours = [  # and none of connecting, nor a driver's own commit marker
        span for span in spans if re.search("notes|COMMIT", span["attributes"].get("db.query.text", ""))
    ]
    below = [
        [span["name"] for span in ours if span["parent_id"] == request["context"]["span_id"]]
        for request in requests
    ]
    assert [request["name"] for request in requests] == ["POST /notes"] * 3
    assert [request["attributes"]["request_id"] for request in requests] == [
        "request-0",
        "request-1",
        "request-2",
    ]
    assert below == [["INSERT", "COMMIT"], ["INSERT"], ["SELECT"]]
    assert [len(request["events"]) for request in requests] == [0, 0, 1]
