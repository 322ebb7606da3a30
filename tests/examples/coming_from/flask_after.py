"""Orders, after: the session is an argument, and the end of the request commits."""

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler, Body, Problem, read_body


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def list_orders(session: Session) -> list[Order]:
    return list(session.scalars(select(Order).order_by(Order.id)))


def create_order(session: Session, *, text: str) -> Order:
    session.add(order := Order(text=text))
    session.flush()
    return order


def is_sold(text: str) -> bool:
    return "unicorn" not in text


class OrderNew(Body):
    text: str


class OrdersHandler(ApiHandler):
    async def get(self) -> None:
        orders = await self.run(list_orders, self.session)
        self.write_json([{"id": order.id, "text": order.text} for order in orders])

    async def post(self) -> None:
        new = await read_body(self, OrderNew)
        order = await self.run(create_order, self.session, text=new.text)
        if not is_sold(new.text):
            raise Problem(409, "that is not sold")
        self.write_json({"id": order.id, "text": order.text}, 201)


def make_app(url: str) -> Application:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)
    return Application([("/orders", OrdersHandler)], database=database)
