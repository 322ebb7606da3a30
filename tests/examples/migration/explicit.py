"""Orders, after: the session is an argument."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from handlers import SessionHandler
from tests.examples.migration.tables import Base, Order


def list_orders(session: Session) -> list[str]:
    return list(session.scalars(select(Order.text).order_by(Order.id)))


def create_order(session: Session, *, text: str) -> None:
    session.add(Order(text=text))


def create_orders(session: Session, *, texts: list[str]) -> None:
    session.add_all(Order(text=text) for text in texts)


class OrdersHandler(SessionHandler):
    async def get(self) -> None:
        self.write({"orders": await self.run(list_orders, self.session)})

    async def post(self) -> None:
        text = self.get_body_argument("text")
        create_order(self.session, text=text)
        if await self.settings["supplier"](text):
            self.set_status(201)
        else:
            self.set_status(409)


class ImportHandler(SessionHandler):
    async def post(self) -> None:
        await self.run(create_orders, self.session, texts=self.get_body_arguments("text"))
        self.set_status(201)


def make_app(url: str, **settings: Any) -> Application:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)
    routes = [("/orders", OrdersHandler), ("/import", ImportHandler)]
    return Application(routes, database=database, **settings)
