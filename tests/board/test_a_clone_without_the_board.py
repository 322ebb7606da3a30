"""An application of one's own in the board's place: the kernel's tests pass, and so do the application's.

A copy of this tree loses every folder named ``board``, and is given two tables, their handlers, their
command and their tests. Nothing else is changed in it but the line that names the routes, and the names in
the contracts of import-linter; its first migration is written there by the command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

BENCH = Path("tests/bench")
"""Measures the board, and goes with it."""

APPLICATION = {
    "db/shop/__init__.py": '"""Buyers and their orders."""\n',
    "db/shop/base.py": '''
"""The declarative base of the shop's tables."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from db.base import NAMING_CONVENTION


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
''',
    "db/shop/orders.py": '''
"""Buyers, and what they order."""

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId
from db.shop.base import Base


class Buyer(Base):
    __tablename__ = "buyers"

    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)


class Order(Base):
    __tablename__ = "shop_orders"  # an example of tests/examples has a table orders

    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    buyer_id: Mapped[int] = mapped_column(SerialId, ForeignKey("buyers.id"))
    item: Mapped[str] = mapped_column(String(64))


def create_order(session: Session, *, buyer: str, item: str) -> int:
    """Add an order, and the buyer where it is the first one; returns its id."""
    found = session.scalars(select(Buyer).where(Buyer.name == buyer)).one_or_none()
    if found is None:
        found = Buyer(name=buyer)
        session.add(found)
        session.flush()
    order = Order(buyer_id=found.id, item=item)
    session.add(order)
    session.flush()
    return order.id


def list_items(session: Session) -> list[str]:
    """What is ordered, oldest first."""
    return list(session.scalars(select(Order.item).order_by(Order.id)))
''',
    "db/shop/migrations/__init__.py": '"""The revisions of the shop."""\n',
    "handlers/shop/__init__.py": '"""The shop over HTTP."""\n',
    "handlers/shop/routes.py": '''
"""Orders over HTTP."""

from typing import Annotated

from pydantic import Field
from tornado.routing import URLSpec

from db.shop import orders
from handlers import ApiHandler
from handlers.idempotency import IdempotentHandler
from handlers.json_api.body import Body, read_body
from handlers.openapi.document import About

ABOUT = About(title="A shop", summary="Buyers and their orders.")


class OrderNew(Body):
    buyer: Annotated[str, Field(min_length=1, max_length=64)]
    item: Annotated[str, Field(min_length=1, max_length=64)]


class OrdersHandler(IdempotentHandler, ApiHandler):
    async def get(self) -> None:
        self.write_json({"items": await self.run(orders.list_items, self.session)})

    async def post(self) -> None:
        new = await read_body(self, OrderNew)
        order_id = await self.run(orders.create_order, self.session, buyer=new.buyer, item=new.item)
        self.write_json({"id": order_id}, 201)


def routes() -> list[URLSpec]:
    return [URLSpec("/orders", OrdersHandler, name="orders")]
''',
    "server/commands/shop/__init__.py": '"""The commands of the shop."""\n',
    "server/commands/shop/orders.py": '''
"""The command that prints what is ordered."""

import argparse

from conf import Settings

SUMMARY = "print what is ordered"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    from db import Database
    from db.shop.orders import list_items

    database = Database(settings.database)
    try:
        with database.session_scope(read_only=True) as session:
            print(*list_items(session), sep="\\n")
    finally:
        database.dispose()
    return 0
''',
    "tests/db/shop/__init__.py": "",
    "tests/db/shop/test_orders.py": '''
"""Orders, on both databases."""

from db.shop.orders import create_order, list_items


def test_an_order_is_kept(database, sql):
    with database.session_scope() as session:
        create_order(session, buyer="Ada", item="a lamp")

    with database.session_scope(read_only=True) as session:
        assert list_items(session) == ["a lamp"]
    assert sql("SELECT name FROM buyers") == [{"name": "Ada"}]
''',
    "tests/server/shop/__init__.py": "",
    "tests/server/shop/test_orders.py": '''
"""The shop as it is served."""

import pytest

from tests.server.test_cli import run

ORDER = {"buyer": "Ada", "item": "a lamp"}


@pytest.fixture
def service_module():
    return "server"


def test_an_order_is_taken_once_under_its_key(database_url, start_server, sql):
    server = start_server(url=database_url)

    first = server.request("POST", "/orders", ORDER)
    refused = server.request("POST", "/orders", {"buyer": ""})
    listed = server.request("GET", "/orders")

    assert (first.status, refused.status, listed.body) == (201, 422, {"items": ["a lamp"]})
    assert sql("SELECT item FROM shop_orders") == [{"item": "a lamp"}]
    assert server.request("GET", "/readyz").status == 200
    assert run("orders", DATABASE_URL=database_url).out == "a lamp\\n"
''',
}


def make_clone(folder: Path) -> None:
    """Copy the files of this tree, without the board and with the shop."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in map(Path, tracked):
        if (ROOT / name).is_file() and "board" not in name.parts[:-1] and not name.is_relative_to(BENCH):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for file, text in APPLICATION.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text.lstrip())
    app, setup = folder / "server" / "app.py", folder / "setup.cfg"
    source, changed = re.subn(r"\bhandlers\.board\.routes\b", "handlers.shop.routes", app.read_text())
    assert changed == 1, "one line names the routes"
    app.write_text(source)
    setup.write_text(re.sub(r"\bboard\b", "shop", setup.read_text()))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with the shop in the board's place."""
    folder = tmp_path_factory.mktemp("clone")
    make_clone(folder)
    revision = ["migrate", "revision", "-m", "orders", "--autogenerate", "--database-url", "sqlite://"]
    written = run(folder, "server", *revision)
    assert written.stderr == ""
    assert (folder / "db/shop/migrations/shop_0001_orders.py").is_file()
    return folder


def run(clone: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` in the clone, with its own packages before those of this tree."""
    own: Mapping[str, str] = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(clone), **environ}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=clone, env=own, check=False, capture_output=True, text=True)


def pytest_in(clone: Path, *arguments: str) -> str:
    """What pytest prints there, in a process of its own; what fails runs once more, as in `scripts/test`."""
    done = run(clone, "pytest", "-q", *arguments)
    if done.returncode == 1:
        print(done.stdout[-8000:])
        done = run(clone, "pytest", "-q", *arguments, "-n", "0", "--last-failed")
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_one_migrate_makes_the_kernels_tables_and_the_applications(clone: Path, tmp_path: Path):
    """The commit markers and idempotency keys beside the shop's; the schema is then as the code expects."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'shop.db'}"}

    made, checked = (
        run(clone, "server", *command, **environ) for command in (["migrate"], ["migrate", "check"])
    )

    assert (made.returncode, checked.returncode) == (0, 0), made.stderr + checked.stdout + checked.stderr
    script = run(clone, "server", "migrate", "--sql", **environ).stdout
    tables = set(re.findall(r"CREATE TABLE (\w+)", script))
    assert {"buyers", "shop_orders", "commit_witness", "idempotency_keys"} <= tables
    assert not {"teams", "tasks", "transfers"} & tables


PART = ("db/shop", "server/shop", "test_layers.py", "test_rooms.py", "handlers/test_streams.py")
"""The application's tests, and of the kernel's those of the tree's rooms and of some requests."""


@pytest.mark.slow
def test_the_applications_tests_and_a_part_of_the_kernels_pass_without_the_board(clone: Path):
    """With the fixtures of the kernel's."""
    pytest_in(clone, *(f"tests/{each}" for each in PART), "--backend", "sqlite")


@pytest.mark.slow
def test_the_kernels_tests_pass_without_the_board(clone: Path):
    """All that take no minutes; on SQLite, where they can choose."""
    pytest_in(clone, "tests", "--backend", "sqlite", "-n", "2")
