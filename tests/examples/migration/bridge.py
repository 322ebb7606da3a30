"""Orders, between: a unit of work owns the session, and functions that are not migrated yet look it up.

`create_orders` is migrated; `list_orders` and `create_order` are as they were: their `DBSession` is
the session of the request that they work for.
"""

from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.scope import current_session
from handlers import ContextvarHandler
from tests.examples.migration.tables import Base, Order


class CurrentSession:
    """In place of the `scoped_session`: it finds, and makes none."""

    def __call__(self) -> Session:
        return current_session()

    def __getattr__(self, name: str) -> Any:
        return getattr(current_session(), name)


DBSession = cast("Session", CurrentSession())


def list_orders() -> list[str]:
    return list(DBSession.scalars(select(Order.text).order_by(Order.id)))


def create_order(*, text: str) -> None:
    DBSession.add(Order(text=text))


def create_orders(session: Session, *, texts: list[str]) -> None:
    session.add_all(Order(text=text) for text in texts)


class OrdersHandler(ContextvarHandler):
    async def get(self) -> None:
        self.write({"orders": await self.run(list_orders)})

    async def post(self) -> None:
        text = self.get_body_argument("text")
        create_order(text=text)
        if await self.settings["supplier"](text):
            self.set_status(201)
        else:
            self.set_status(409)


class ImportHandler(ContextvarHandler):
    async def post(self) -> None:
        await self.run(create_orders, self.session, texts=self.get_body_arguments("text"))
        self.set_status(201)


def make_app(url: str, **settings: Any) -> Application:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)
    routes = [("/orders", OrdersHandler), ("/import", ImportHandler)]
    return Application(routes, database=database, **settings)
