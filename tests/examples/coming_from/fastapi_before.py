"""Orders, before: FastAPI, and an `AsyncSession` from a dependency that commits after its ``yield``."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Response
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.examples.migration.tables import Order

SessionLocal = async_sessionmaker(expire_on_commit=False)
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with SessionLocal.begin() as session:
        yield session


InSession = Annotated[AsyncSession, Depends(get_session)]


class OrderNew(BaseModel):
    text: str = Field(max_length=64)


class OrderOut(BaseModel):
    id: int
    text: str


async def list_orders(session: AsyncSession) -> list[Order]:
    return list(await session.scalars(select(Order).order_by(Order.id)))


async def create_order(session: AsyncSession, *, text: str) -> Order:
    session.add(order := Order(text=text))
    await session.flush()
    return order


def is_sold(text: str) -> bool:
    return "unicorn" not in text


@app.get("/orders", response_model=list[OrderOut])
async def get_orders(session: InSession) -> list[Order]:
    return await list_orders(session)


@app.post("/orders", status_code=201, response_model=OrderOut)
async def post_order(new: OrderNew, session: InSession, response: Response) -> Order:
    order = await create_order(session, text=new.text)
    if not is_sold(new.text):
        response.status_code = 409
    return order
