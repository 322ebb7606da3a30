"""Orders, before: the session is in a `scoped_session` as it comes, one a thread."""

from typing import Any

from sqlalchemy import create_engine, select
from sqlalchemy.orm import scoped_session, sessionmaker
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from tests.examples.migration.tables import Base, Order

DBSession = scoped_session(sessionmaker())


def list_orders() -> list[str]:
    return list(DBSession.scalars(select(Order.text).order_by(Order.id)))


def create_order(*, text: str) -> None:
    DBSession.add(Order(text=text))


def create_orders(*, texts: list[str]) -> None:
    for text in texts:
        create_order(text=text)


class BaseHandler(RequestHandler):
    def on_finish(self) -> None:
        if self.get_status() < 400:
            DBSession.commit()
        DBSession.remove()


class OrdersHandler(BaseHandler):
    def get(self) -> None:
        self.write({"orders": list_orders()})

    async def post(self) -> None:
        text = self.get_body_argument("text")
        create_order(text=text)
        if await self.settings["supplier"](text):
            self.set_status(201)
        else:
            self.set_status(409)


class ImportHandler(BaseHandler):
    async def post(self) -> None:
        texts = self.get_body_arguments("text")
        await IOLoop.current().run_in_executor(None, lambda: create_orders(texts=texts))
        self.set_status(201)


def make_app(url: str, **settings: Any) -> Application:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    DBSession.configure(bind=engine)
    return Application([("/orders", OrdersHandler), ("/import", ImportHandler)], engine=engine, **settings)
