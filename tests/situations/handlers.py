"""Orders over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field
from tornado.httpclient import AsyncHTTPClient
from tornado.routing import URLSpec
from tornado.web import Application

from conf import Settings
from db import Database
from handlers import ApiHandler
from handlers.json_api.body import Body, read_body
from handlers.openapi.document import About
from server.app import make_app
from server.monitoring.ops import Ops
from tests.situations import model

CARRIER = "CARRIER_URL"
"""The variable with the address of another service, which books parcels."""


class OrderChange(Body):
    """`PATCH /orders/{id}`."""

    state: Annotated[str, Field(min_length=1, max_length=16)]


class OrderHandler(ApiHandler):
    """``/orders/{id}``."""

    async def get(self, order_id: str) -> None:
        self.write_json(await self.run(model.read_order, self.session, int(order_id)))

    async def patch(self, order_id: str) -> None:
        change = await read_body(self, OrderChange)
        self.write_json(await self.run(model.change_order, self.session, int(order_id), state=change.state))


class ShipHandler(ApiHandler):
    """``/orders/{id}/ship``: holds the order, and so a connection, while another service is asked."""

    async def post(self, order_id: str) -> None:
        await self.run(model.change_order, self.session, int(order_id), state="shipped")
        parcel = await book_parcel(order_id)
        self.write_json(await self.run(model.change_order, self.session, int(order_id), parcel=parcel))


class InvoiceHandler(ApiHandler):
    """``/customers/{id}/invoices``: loads the items of each order by itself."""

    async def post(self, customer_id: str) -> None:
        self.write_json({"lines": await self.run(model.invoice, self.session, int(customer_id))}, 201)


class ChargeHandler(ApiHandler):
    """``/orders/{id}/charge``: fails."""

    async def post(self, order_id: str) -> None:
        await self.run(model.charge_order, self.session, int(order_id))


async def book_parcel(order_id: str) -> str:
    """The number of a parcel, from the other service."""
    carrier = f"{os.environ[CARRIER]}/parcels/{order_id}"
    answer = await AsyncHTTPClient().fetch(carrier, request_timeout=60)
    return answer.body.decode()


def make_situations(settings: Settings, database: Database, ops: Ops | None = None) -> Application:
    """As `server.app.make_app`, with these routes."""
    order = "([1-9][0-9]{0,8})"
    routes = [
        URLSpec(f"/orders/{order}", OrderHandler, name="order"),
        URLSpec(f"/orders/{order}/ship", ShipHandler, name="ship"),
        URLSpec(f"/orders/{order}/charge", ChargeHandler, name="charge"),
        URLSpec(f"/customers/{order}/invoices", InvoiceHandler, name="invoices"),
    ]
    about = About(title="orders", summary="Orders, their parcels, and invoices.")
    return make_app(settings, database, ops, routes=routes, about=about)
