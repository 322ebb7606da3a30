"""An application with packages of its own: `conf`, `db`, `handlers`, `server` and `tests`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from textwrap import dedent

FILES = {
    "conf/__init__.py": '"""The shop\'s settings."""\n\nURL = "sqlite:///shop.db"\n',
    "db/__init__.py": '"""The shop\'s tables."""\n',
    "db/base.py": '''
        """The base of the tables."""

        from sqlalchemy.orm import DeclarativeBase


        class Base(DeclarativeBase):
            pass
    ''',
    "db/errors.py": '''
        """What model functions raise."""


        class NoSuchOrder(Exception):
            """No order has this number."""
    ''',
    "db/orders.py": '''
        """Orders, and functions for them."""

        from sqlalchemy.orm import Mapped, Session, mapped_column

        from db.base import Base
        from db.errors import NoSuchOrder


        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            item: Mapped[str] = mapped_column(unique=True)


        def create_order(session: Session, *, item: str) -> int:
            session.add(order := Order(item=item))
            session.flush()
            return order.id


        def get_item(session: Session, *, number: int) -> str:
            order = session.get(Order, number)
            if order is None:
                raise NoSuchOrder(number)
            return order.item
    ''',
    "handlers/__init__.py": '"""The shop over HTTP."""\n',
    "handlers/base.py": '''
        """What the handlers have in common."""

        from onfinish.handlers import SessionHandler


        class ShopHandler(SessionHandler):
            def text(self, text: str) -> None:
                self.set_header("Content-Type", "text/plain; charset=utf-8")
                self.write(text)
    ''',
    "handlers/orders.py": '''
        """Orders."""

        from db.errors import NoSuchOrder
        from db.orders import create_order, get_item
        from handlers.base import ShopHandler


        class OrdersHandler(ShopHandler):
            async def post(self) -> None:
                number = await self.run(create_order, self.session, item=self.get_body_argument("item"))
                self.set_status(201)
                self.text(str(number))


        class OrderHandler(ShopHandler):
            async def get(self, number: str) -> None:
                try:
                    self.text(await self.run(get_item, self.session, number=int(number)))
                except NoSuchOrder:
                    self.send_error(404)
    ''',
    "server/__init__.py": '"""The shop as a program."""\n',
    "server/app.py": '''
        """The application."""

        from tornado.web import Application

        from handlers.orders import OrderHandler, OrdersHandler
        from onfinish.db import Database


        def make_app(database: Database) -> Application:
            routes = [("/orders", OrdersHandler), (r"/orders/(\\d+)", OrderHandler)]
            return Application(routes, database=database)
    ''',
    "server/__main__.py": '''
        """python -m server"""

        print("the shop")
    ''',
    "tests/__init__.py": "",
    "tests/test_orders.py": """
        from __future__ import annotations

        from pathlib import Path
        from tempfile import TemporaryDirectory

        from tornado.testing import AsyncHTTPTestCase
        from tornado.web import Application

        from db.base import Base
        from onfinish.conf import DatabaseSettings
        from onfinish.db import Database
        from onfinish.db.schema import migrate
        from server.app import make_app


        class TestOrders(AsyncHTTPTestCase):
            def get_app(self) -> Application:
                folder = TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                settings = DatabaseSettings(url=f"sqlite:///{Path(folder.name, 'shop.db')}")
                migrate.upgrade(settings, "kernel")
                self.database = Database(settings)
                Base.metadata.create_all(self.database.writer.engine)
                return make_app(self.database)

            def tearDown(self) -> None:
                self.io_loop.run_sync(self.database.close)
                super().tearDown()

            def test_an_order_is_kept(self) -> None:
                created = self.fetch("/orders", method="POST", body="item=tea")
                found = self.fetch(f"/orders/{created.body.decode()}")

                assert (created.code, found.code, found.body) == (201, 200, b"tea")

            def test_an_order_that_is_there_is_refused(self) -> None:
                self.fetch("/orders", method="POST", body="item=tea")
                again = self.fetch("/orders", method="POST", body="item=tea")

                assert again.code == 409
    """,
    # A module of the application in processes of its own: what is sent there is of both.
    "db/elsewhere.py": '''
        """Work in another process."""

        from multiprocessing import get_context

        from onfinish.conf import DatabaseSettings
        from onfinish.db import Outcome, make_url


        def host(settings: DatabaseSettings) -> tuple[str | None, Outcome]:
            return make_url(settings).host, Outcome.COMMITTED


        def host_elsewhere(method: str) -> tuple[str | None, Outcome]:
            settings = DatabaseSettings(url="postgresql://u:p@example.org/shop")
            with get_context(method).Pool(1) as pool:
                return pool.apply(host, (settings,))


        if __name__ == "__main__":
            print(*host_elsewhere("spawn"), *host_elsewhere("forkserver"))
    ''',
}
"""Its files."""

BEFORE = {
    "handlers/base.py": '''
        """What the handlers have in common."""

        from tornado.web import RequestHandler


        class ShopHandler(RequestHandler):
            def prepare(self) -> None:
                self.session = self.settings["make_session"]()

            def on_finish(self) -> None:
                self.session.close()

            def text(self, text: str) -> None:
                self.set_header("Content-Type", "text/plain; charset=utf-8")
                self.write(text)
    ''',
    "handlers/orders.py": '''
        """Orders."""

        from db.errors import NoSuchOrder
        from db.orders import create_order, get_item
        from handlers.base import ShopHandler


        class OrdersHandler(ShopHandler):
            def post(self) -> None:
                number = create_order(self.session, item=self.get_body_argument("item"))
                self.session.commit()
                self.set_status(201)
                self.text(str(number))


        class OrderHandler(ShopHandler):
            def get(self, number: str) -> None:
                try:
                    self.text(get_item(self.session, number=int(number)))
                except NoSuchOrder:
                    self.send_error(404)
    ''',
    "server/app.py": '''
        """The application."""

        from sqlalchemy import create_engine
        from sqlalchemy.orm import sessionmaker
        from tornado.web import Application

        from handlers.orders import OrderHandler, OrdersHandler


        def make_app(url: str) -> Application:
            routes = [("/orders", OrdersHandler), (r"/orders/(\\d+)", OrderHandler)]
            return Application(routes, make_session=sessionmaker(create_engine(url)))
    ''',
    "tests/test_orders.py": """
        from __future__ import annotations

        from pathlib import Path
        from tempfile import TemporaryDirectory

        from sqlalchemy import create_engine
        from tornado.testing import AsyncHTTPTestCase
        from tornado.web import Application

        from db.base import Base
        from server.app import make_app


        class TestOrders(AsyncHTTPTestCase):
            def get_app(self) -> Application:
                folder = TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                url = f"sqlite:///{Path(folder.name, 'shop.db')}"
                Base.metadata.create_all(create_engine(url))
                return make_app(url)

            def test_an_order_is_kept(self) -> None:
                created = self.fetch("/orders", method="POST", body="item=tea")
                found = self.fetch(f"/orders/{created.body.decode()}")

                assert (created.code, found.code, found.body) == (201, 200, b"tea")
    """,
}
"""What it was on plain Tornado and SQLAlchemy, where that is something else."""

PROGRAM = ("handlers/base.py", "handlers/orders.py", "server/app.py")
"""The files that change when it takes the handler, tests apart."""


def text_of(text: str) -> str:
    """A file as it is written."""
    return dedent(text).lstrip()


def change() -> list[str]:
    """The lines of a diff from what it was, without context."""
    lines: list[str] = []
    for name in PROGRAM:
        before, after = (text_of(files[name]).splitlines() for files in (BEFORE, FILES))
        lines += [
            f"--- {name}",
            *[line for line in unified_diff(before, after, n=0) if line[:2] not in ("--", "++", "@@")],
        ]
    return lines


def write_application(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """Write it into a folder, and return that."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(text))
    return folder
