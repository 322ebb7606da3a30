"""Orders, after: the model's functions are plain, and the session is the handler's."""

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from handlers import ApiHandler, Body, Problem, operation
from tests.examples.migration.tables import Order


class OrderNew(Body):
    text: str = Field(max_length=64)


class OrderOut(BaseModel):
    id: int
    text: str


def list_orders(session: Session) -> list[Order]:
    return list(session.scalars(select(Order).order_by(Order.id)))


def create_order(session: Session, *, text: str) -> Order:
    session.add(order := Order(text=text))
    session.flush()
    return order


def is_sold(text: str) -> bool:
    return "unicorn" not in text


class OrdersHandler(ApiHandler):
    @operation(answer=list[OrderOut])
    async def get(self) -> list[Order]:
        return await self.run(list_orders, self.session)

    @operation(answer=OrderOut, status=201)
    async def post(self, new: OrderNew) -> Order:
        order = await self.run(create_order, self.session, text=new.text)
        if not is_sold(new.text):
            raise Problem(409, "that is not sold")
        return order


ROUTES = (URLSpec("/orders", OrdersHandler),)
