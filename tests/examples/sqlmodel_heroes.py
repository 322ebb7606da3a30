"""Heroes, teams and transfers with SQLModel: its own session class, its models as bodies and answers.

``python -m tests.examples.sqlmodel_heroes [URL [PORT]]``
"""

import asyncio
import contextlib
import sys

from sqlmodel import Field, Session, SQLModel, select
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.errors import Conflict, NotFound
from handlers import ApiHandler, Body, operation


class Team(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=64, unique=True)


class HeroBase(SQLModel):
    name: str = Field(max_length=64, unique=True)
    secret_name: str = Field(max_length=64)
    team_id: int | None = Field(default=None, foreign_key="team.id")


class Hero(HeroBase, table=True):
    id: int | None = Field(default=None, primary_key=True)


class TransferLog(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    hero_id: int = Field(foreign_key="hero.id")
    from_team: int
    to_team: int


class TeamNew(Body):
    name: str


class TeamOut(SQLModel):
    id: int
    name: str


class HeroNew(Body):
    name: str
    secret_name: str
    team_id: int | None = None


class HeroOut(SQLModel):
    id: int
    name: str
    team_id: int | None


class Transfer(Body):
    from_team_id: int
    to_team_id: int


def create(session: Session, *, row: Team | Hero) -> Team | Hero:
    session.add(row)
    session.flush()
    return row


def heroes_of(session: Session, *, team_id: int) -> list[Hero]:
    return list(session.exec(select(Hero).where(Hero.team_id == team_id).order_by(Hero.name)))


def transfer_hero(session: Session, *, hero_id: int, from_team_id: int, to_team_id: int) -> Hero:
    hero = session.exec(select(Hero).where(Hero.id == hero_id).with_for_update()).one_or_none()
    if hero is None:
        raise NotFound("hero", hero_id)
    if hero.team_id != from_team_id:
        raise Conflict("the hero is not in the source team")
    hero.team_id = to_team_id
    session.add(TransferLog(hero_id=hero_id, from_team=from_team_id, to_team=to_team_id))
    session.flush()
    return hero


class ModelHandler(ApiHandler):
    session: Session  # for type checkers: of the class that the database was given


class TeamsHandler(ModelHandler):
    @operation(answer=TeamOut, status=201)
    async def post(self, new: TeamNew) -> object:
        return await self.run(create, self.session, row=Team(name=new.name))


class HeroesHandler(ModelHandler):
    @operation(answer=HeroOut, status=201)
    async def post(self, new: HeroNew) -> object:
        return await self.run(create, self.session, row=Hero(**new.model_dump()))


class TeamHandler(ModelHandler):
    @operation(answer=list[HeroOut])
    async def get(self, team_id: int) -> list[Hero]:
        return await self.run(heroes_of, self.session, team_id=team_id)


class TransferHandler(ModelHandler):
    @operation(answer=HeroOut)
    async def post(self, hero_id: int, move: Transfer) -> Hero:
        return await self.run(transfer_hero, self.session, hero_id=hero_id, **move.given())


ROUTES = [
    ("/teams", TeamsHandler),
    ("/teams/([0-9]{1,9})/heroes", TeamHandler),
    ("/heroes", HeroesHandler),
    ("/heroes/([0-9]{1,9})/transfer", TransferHandler),
]


async def serve(url: str = "sqlite:///heroes.db", port: str = "8888") -> None:
    database = Database(DatabaseSettings(url=url), session_class=Session)
    await asyncio.to_thread(database.create_all, SQLModel.metadata)
    Application(ROUTES, database=database).listen(int(port), "127.0.0.1")
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
