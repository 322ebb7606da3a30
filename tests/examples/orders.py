"""Orders and their bills: two databases, work after the commit, and a job.

``python -m tests.examples.orders [URL [BILLING_URL [PORT]]]``, then
``curl -d item=tea http://127.0.0.1:8888/orders``.
"""

import asyncio
import contextlib
import logging
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application

from conf import DatabaseSettings
from db import Database, Jobs
from handlers import ApiHandler

log = logging.getLogger("orders")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    day: Mapped[str]


class Item(Base):
    """What was ordered once."""

    __tablename__ = "items"
    name: Mapped[str] = mapped_column(primary_key=True)


class BillingBase(DeclarativeBase):
    """The tables of the other database."""


class Bill(BillingBase):
    __tablename__ = "bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def create_order(session: Session, *, item: str) -> int:
    add_item(session, name=item)
    order = Order(item=item, day=today())
    session.add(order)
    session.flush()
    return order.id


def add_item(session: Session, *, name: str) -> None:
    """Add an item, unless it is there; another request may add it at the same moment."""
    try:
        with session.begin_nested():
            session.add(Item(name=name))
            session.flush()
    except IntegrityError:
        pass  # it is there: the savepoint was rolled back, and the request goes on


def create_bill(session: Session, *, order_id: int) -> None:
    session.add(Bill(order_id=order_id))


def delete_old_orders(session: Session, *, days: int) -> None:
    oldest = (datetime.now(UTC).date() - timedelta(days=days)).isoformat()
    session.execute(delete(Order).where(Order.day < oldest))


def send_mail(order_id: int) -> None:
    """Would block for a second."""
    log.info("order %d is on its way", order_id)


class OrdersHandler(ApiHandler):
    async def post(self) -> None:
        order_id = await self.run(create_order, self.session, item=self.get_body_argument("item"))
        await self.run(create_bill, self.session_of("billing"), order_id=order_id)
        self.on_commit(send_mail, order_id)
        self.write_json({"id": order_id}, 201)


def make_app(database: Database, billing: Database) -> Application:
    return Application([("/orders", OrdersHandler)], database=database, databases={"billing": billing})


def start_jobs(database: Database) -> Jobs:
    jobs = Jobs(database)
    jobs.every(60, delete_old_orders, days=30, alone=True)
    return jobs


async def main(
    url: str = "sqlite:///orders.db", billing_url: str = "sqlite:///billing.db", port: str = "8888"
) -> None:
    database, billing = (Database(DatabaseSettings(url=each)) for each in (url, billing_url))
    for each, base in ((database, Base), (billing, BillingBase)):
        await asyncio.to_thread(each.create_all, base.metadata)
    server = make_app(database, billing).listen(int(port), "127.0.0.1")
    jobs = start_jobs(database)
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
        await jobs.stop()
        await database.idle(10)  # the requests under way, and what follows their commits
        for each in (database, billing):
            await each.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
