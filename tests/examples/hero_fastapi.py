"""The same on FastAPI, with the session as a dependency."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session, sessionmaker

from db.errors import NotFound
from tests.examples import hero_model

SessionLocal = sessionmaker()
app = FastAPI()


def get_session() -> Iterator[Session]:
    with SessionLocal.begin() as session:
        yield session


Database = Annotated[Session, Depends(get_session)]


class HeroNew(BaseModel):
    name: str = Field(max_length=64)
    age: int | None = None


class HeroOut(HeroNew):
    id: int


@app.post("/heroes", status_code=201, response_model=HeroOut)
def create_hero(new: HeroNew, session: Database) -> hero_model.Hero:
    return hero_model.create_hero(session, **new.model_dump())


@app.get("/heroes/{hero_id}", response_model=HeroOut)
def get_hero(hero_id: int, session: Database) -> hero_model.Hero:
    try:
        return hero_model.get_hero(session, hero_id=hero_id)
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
