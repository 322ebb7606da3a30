"""Orders, before: the session is in a `scoped_session` keyed by a context variable, as baselayer has it."""

import uuid
from contextvars import ContextVar
from typing import Any

from sqlalchemy import create_engine, select
from sqlalchemy.orm import scoped_session, sessionmaker
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from tests.examples.migration.tables import Base, Order

session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
DBSession = scoped_session(sessionmaker(), scopefunc=session_id.get)


def list_orders() -> list[str]:
    return list(DBSession.scalars(select(Order.text).order_by(Order.id)))


def create_order(*, text: str) -> None:
    DBSession.add(Order(text=text))


def create_orders(*, texts: list[str]) -> None:
    for text in texts:
        create_order(text=text)


class BaseHandler(RequestHandler):
    def prepare(self) -> None:
        session_id.set(uuid.uuid4().hex)

    def on_finish(self) -> None:
        DBSession.remove()


class OrdersHandler(BaseHandler):
    def get(self) -> None:
        self.write({"orders": list_orders()})

    async def post(self) -> None:
        text = self.get_body_argument("text")
        create_order(text=text)
        if await self.settings["supplier"](text):
            DBSession.commit()
            self.set_status(201)
        else:
            self.set_status(409)


class ImportHandler(BaseHandler):
    async def post(self) -> None:
        texts = self.get_body_arguments("text")
        await IOLoop.current().run_in_executor(None, lambda: create_orders(texts=texts))
        DBSession.commit()
        self.set_status(201)


def make_app(url: str, **settings: Any) -> Application:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    DBSession.configure(bind=engine)
    return Application([("/orders", OrdersHandler), ("/import", ImportHandler)], engine=engine, **settings)
