"""Heroes: the model, which both forms of the API stand beside."""

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from db.base import SerialId
from db.errors import NotFound


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "heroes"
    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    age: Mapped[int | None]


def create_hero(session: Session, *, name: str, age: int | None = None) -> Hero:
    session.add(hero := Hero(name=name, age=age))
    session.flush()
    return hero


def get_hero(session: Session, *, hero_id: int) -> Hero:
    if (hero := session.get(Hero, hero_id)) is None:
        raise NotFound("hero", hero_id)
    return hero
