"""Customers, their orders, and the items of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ForeignKey, Integer, String, make_url, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.schema import CreateTable

from db.errors import NotFound


class Base(DeclarativeBase):
    """The base of these tables. Lives as long as the process."""


class Customer(Base):
    """A row of ``customers``. Lives as long as the session that loaded it."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    invoices: Mapped[int] = mapped_column(Integer)


class Order(Base):
    """A row of ``orders``. Lives as long as the session that loaded it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    state: Mapped[str] = mapped_column(String(16), default="open")
    parcel: Mapped[str | None] = mapped_column(String(32))
    items: Mapped[list[Item]] = relationship(order_by="Item.id")


class Item(Base):
    """A row of ``items``. Lives as long as the session that loaded it."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    article: Mapped[str] = mapped_column(String(64))
    price: Mapped[int] = mapped_column(Integer)


ORDERS = 60


def statements(backend: str) -> Iterator[str]:
    """What makes the tables, with a customer who has `ORDERS` orders of two items each."""
    dialect = make_url(f"{backend}://").get_dialect()()
    for table in Base.metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
    yield "INSERT INTO customers VALUES (1, 'Ada', 0)"
    orders = ", ".join(f"({number}, 1, 'open', NULL)" for number in range(1, ORDERS + 1))
    yield f"INSERT INTO orders VALUES {orders}"
    items = ", ".join(
        f"({2 * number + at}, {number}, 'article {at}', {10 + at})"
        for number in range(1, ORDERS + 1)
        for at in (0, 1)
    )
    yield f"INSERT INTO items VALUES {items}"


def lock_order(session: Session, order_id: int) -> Order:
    """An order, not to be changed by another transaction before this one ends.

    Raises:
        NotFound: no such order. The session stays usable.
    """
    order = session.get(Order, order_id, with_for_update=True, populate_existing=True)
    if order is None:
        raise NotFound("order", order_id)
    return order


def change_order(session: Session, order_id: int, **values: Any) -> dict[str, Any]:
    """Change an order, under its row's lock."""
    order = lock_order(session, order_id)
    for name, value in values.items():
        setattr(order, name, value)
    session.flush()
    return {"id": order.id, "state": order.state, "parcel": order.parcel}


def read_order(session: Session, order_id: int) -> dict[str, Any]:
    """An order."""
    return {"id": order_id, "state": session.get_one(Order, order_id).state}


def list_orders(session: Session, customer_id: int) -> Sequence[Order]:
    """The orders of a customer."""
    return session.scalars(select(Order).where(Order.customer_id == customer_id).order_by(Order.id)).all()


def invoice(session: Session, customer_id: int) -> list[dict[str, Any]]:
    """What a customer has to pay, order by order; takes down that an invoice was written."""
    customer = session.get_one(Customer, customer_id)
    lines = []
    for order in list_orders(session, customer_id):
        total = sum(item.price for item in order.items)
        lines.append({"order": order.id, "total": total})
    customer.invoices += 1
    session.flush()
    return lines


def charge_order(session: Session, order_id: int) -> None:
    """Charge for an order: fails once it has written."""
    change_order(session, order_id, state="charged")
    raise ZeroDivisionError("no rate for this currency")
