"""One application before its migration, between and after: the same calls, and each before's own fault."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import urlencode

import pytest
from sqlalchemy.orm import close_all_sessions
from tornado.ioloop import IOLoop
from tornado.web import Application
from tornado_sqlalchemy import set_max_workers

from conf import DatabaseSettings
from db import Database
from db.errors import UsageError
from server.compare.lint import lint
from tests.examples.migration import bridge, explicit, mixin
from tests.examples.migration.tables import Base
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client, Serve

pytestmark = pytest.mark.gen_test

FOLDER = Path(bridge.__file__).parent
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

BEFORE = ["threadlocal", "registry", "mixin"]
AFTER = ["bridge", "explicit"]

FAULTS = {
    "an order is taken and listed": set(),
    "a refused order, alone": {"mixin"},
    "a refused order, beside one that is taken": {"threadlocal", "mixin"},
    "an import, off the event loop": {"threadlocal", "registry"},
}
"""The forms in which each goes wrong, by its line in the documentation."""

on_every_form = pytest.mark.parametrize(
    ("form", "backend"),
    [(form, backend) for form in [*BEFORE, *AFTER] for backend in ("sqlite", "postgresql")]
    + [(form, "postgresql+asyncpg") for form in AFTER],
    indirect=["backend"],
)


class Supplier:
    """What is asked before an order is answered; it refuses what is bad, when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.decides = asyncio.Event()
        self.decides.set()

    async def __call__(self, text: str) -> bool:
        self.asked.set()
        if "bad" in text:
            await self.decides.wait()
        return "bad" not in text


@pytest.fixture
def supplier() -> Supplier:
    return Supplier()


@pytest.fixture
def client(
    form: str, database_url: str, serve: Serve, supplier: Supplier, io_loop: IOLoop
) -> Iterator[Client]:
    """A client of the application in that form."""
    module = import_module(f"tests.examples.migration.{form}")
    app = module.make_app(database_url, supplier=supplier, log_function=lambda handler: None)
    yield serve(app)
    if "database" in app.settings:
        io_loop.run_sync(app.settings["database"].close)
    else:  # what its fault has left behind
        close_all_sessions()
        if form == "registry":
            contextvars.Context().run(module.DBSession.remove)  # that of all callers without a key
        app.settings["engine"].dispose()
        set_max_workers(1)  # which ends the threads of tornado-sqlalchemy


@pytest.fixture
def orders(sql: RawSql) -> Callable[[], list[str]]:
    """The texts in the database, past the application."""
    return lambda: [row["text"] for row in sql("SELECT text FROM orders ORDER BY text")]


async def post(client: Client, *texts: str, to: str = "/orders") -> int:
    body = urlencode([("text", text) for text in texts]).encode()
    return (await client.post(to, body, headers=FORM)).code


@on_every_form
async def test_an_order_is_taken_and_listed(form, client, orders):
    """The behaviour that every step keeps."""
    assert await post(client, "pears") == 201
    assert await post(client, "plums") == 201

    listed = await client.get("/orders")

    assert (listed.code, listed.json()) == (200, {"orders": ["pears", "plums"]})
    assert orders() == ["pears", "plums"]


@on_every_form
async def test_a_refused_order_is_not_kept(form, client, orders):
    """The mixin commits behind whatever answer."""
    assert await post(client, "bad pears") == 409

    assert orders() == (["bad pears"] if form in FAULTS["a refused order, alone"] else [])


@on_every_form
async def test_an_order_that_is_refused_beside_another_is_not_kept(form, client, supplier, orders):
    """The thread-local has both orders in one session: the second one's commit keeps the refused one.
    The mixin keeps it in any case."""
    supplier.decides.clear()
    refused = asyncio.ensure_future(post(client, "bad pears"))
    await supplier.asked.wait()

    taken = await post(client, "plums")
    supplier.decides.set()

    assert (taken, await refused) == (201, 409)
    kept = (
        ["bad pears", "plums"] if form in FAULTS["a refused order, beside one that is taken"] else ["plums"]
    )
    assert orders() == kept


@on_every_form
async def test_orders_that_are_added_off_the_event_loop_are_kept(form, client, orders):
    """The thread-local and the registry find another session there, which is never committed."""
    assert await post(client, "pears", "plums", to="/import") == 201

    lost = form in FAULTS["an import, off the event loop"]
    assert orders() == ([] if lost else ["pears", "plums"])


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_one_handler_of_the_mixin_can_go_first(database_url, serve, supplier, orders, io_loop):
    """Both are mounted in one application, each with its pool."""
    old = mixin.make_app(database_url)
    new = Database(DatabaseSettings(url=database_url))
    new.create_all(Base.metadata)
    routes = [("/orders", explicit.OrdersHandler), ("/import", mixin.ImportHandler)]
    client = serve(Application(routes, database=new, db=old.settings["db"], supplier=supplier))

    assert await post(client, "plums") == 201
    assert await post(client, "pears", to="/import") == 201

    assert orders() == ["pears", "plums"]
    await new.close()
    old.settings["engine"].dispose()
    set_max_workers(1)


def test_the_lint_finds_each_before_and_nothing_afterwards():
    found = {Path(each.path).stem for each in lint([FOLDER])}

    assert found == {*BEFORE}


def test_the_bridge_refuses_where_the_registry_made_a_session():
    """What is still to be migrated shows by an error."""
    with pytest.raises(UsageError, match="session"):
        bridge.create_order(text="of no request")
