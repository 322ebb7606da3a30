"""To add a hero and to read one, on `ApiHandler`."""

from pydantic import BaseModel, Field
from tornado.routing import URLSpec

from handlers import ApiHandler, Body, operation
from tests.examples.hero_model import Hero, create_hero, get_hero


class HeroNew(Body):
    name: str = Field(max_length=64)
    age: int | None = None


class HeroOut(BaseModel):
    id: int
    name: str
    age: int | None


class HeroesHandler(ApiHandler):
    @operation(answer=HeroOut, status=201)
    async def post(self, new: HeroNew) -> Hero:
        return await self.run(create_hero, self.session, **new.given())


class HeroHandler(ApiHandler):
    @operation(answer=HeroOut)
    async def get(self, hero_id: int) -> Hero:
        return await self.run(get_hero, self.session, hero_id=hero_id)


ROUTES = (URLSpec("/heroes", HeroesHandler), URLSpec("/heroes/([0-9]{1,18})", HeroHandler))
