"""Orders, before: `self.session` of tornado-sqlalchemy's mixin, which its ``on_finish`` commits."""

from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from tornado.web import Application, RequestHandler
from tornado_sqlalchemy import SessionMixin, SQLAlchemy, as_future

from tests.examples.migration.tables import Base, Order


def list_orders(session: Session) -> list[str]:
    return list(session.scalars(select(Order.text).order_by(Order.id)))


def create_order(session: Session, *, text: str) -> None:
    session.add(Order(text=text))


def create_orders(session: Session, *, texts: list[str]) -> None:
    for text in texts:
        create_order(session, text=text)


class OrdersHandler(SessionMixin, RequestHandler):  # type: ignore[misc]  # the package has no types
    async def get(self) -> None:
        self.write({"orders": await as_future(partial(list_orders, self.session))})

    async def post(self) -> None:
        text = self.get_body_argument("text")
        create_order(self.session, text=text)
        if await self.settings["supplier"](text):
            self.set_status(201)
        else:
            self.set_status(409)


class ImportHandler(SessionMixin, RequestHandler):  # type: ignore[misc]
    async def post(self) -> None:
        await as_future(partial(create_orders, self.session, texts=self.get_body_arguments("text")))
        self.set_status(201)


def make_app(url: str, **settings: Any) -> Application:
    db = SQLAlchemy(url=url)
    Base.metadata.create_all(db.engine)
    routes = [("/orders", OrdersHandler), ("/import", ImportHandler)]
    return Application(routes, db=db, engine=db.engine, **settings)
