"""Teams over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, with_config
from tornado.routing import URLSpec
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from db.board import teams
from db.errors import Conflict, NotFound
from handlers.idempotency import IdempotentHandler
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import Body
from handlers.json_api.errors import CLOSED
from handlers.json_api.fields import (
    NO_CONTROLS,
    SERIAL_ID_GROUP,
    SERIAL_ID_MAX,
    Moment,
    SerialId,
    left_out,
)
from handlers.openapi.operation import Answer, PathParameter, Tag, body_faults, operation

TeamName = Annotated[str, Field(min_length=1, max_length=teams.NAME_CHARS_MAX, pattern=NO_CONTROLS)]


class TeamNew(Body):
    """`POST /teams`."""

    name: TeamName


class TeamChange(Body):
    """`PATCH /teams/{id}`."""

    name: TeamName = left_out()


@with_config(CLOSED)
class Team(TypedDict):
    """A team, which tasks may belong to."""

    id: SerialId
    name: TeamName
    create_time: Moment


@with_config(CLOSED)
class TeamList(TypedDict):
    """All teams, oldest first."""

    items: list[Team]


def team_json(team: teams.Team) -> dict[str, Any]:
    """A `Team`, once `write_json` has written its moment."""
    return {"id": team.id, "name": team.name, "create_time": team.create_time}


TEAMS = Tag("teams", "Who tasks belong to.")
TEAM_ID = PathParameter(
    "team_id", "The team's number.", {"type": "integer", "minimum": 1, "maximum": SERIAL_ID_MAX}, 1
)
EXAMPLE: Team = {"id": 1, "name": "Store QA", "create_time": "2020-03-01T00:00:00Z"}
_RENAMED = "Store and Basket QA"
_NO_TEAM = NotFound("team", EXAMPLE["id"])
_NAME_TAKEN = Conflict("a team with this name exists already")
_TOO_LONG = body_faults(("name", f"should have at most {teams.NAME_CHARS_MAX} characters"))


class TeamsHandler(IdempotentHandler, ApiHandler):
    """``/teams``. Lives as long as one attempt at a request, as every handler here."""

    refused_early = True

    @operation(
        name="list_teams",
        tag=TEAMS,
        summary="All teams, oldest first",
        answers=(Answer(200, "The teams.", TeamList, {"items": [EXAMPLE]}),),
    )
    async def get(self) -> None:
        rows = await self.run(teams.list_teams, self.session)
        self.write_json({"items": [team_json(team) for team in rows]})

    @operation(
        name="create_team",
        tag=TEAMS,
        summary="Add a team",
        body_examples={"a team": {"name": EXAMPLE["name"]}},
        answers=(Answer(201, "The team.", Team, EXAMPLE, headers=("Location",), made="team_id"),),
        errors=(_NAME_TAKEN, _TOO_LONG),
    )
    async def post(self, new: TeamNew) -> None:
        team = await self.run(teams.create_team, self.session, name=new.name)
        self.set_header("Location", f"{self.request.path}/{team.id}")
        self.write_json(team_json(team), 201)


class TeamHandler(ApiHandler):
    """``/teams/{id}``."""

    refused_early = True

    @operation(
        name="get_team",
        tag=TEAMS,
        summary="A team",
        path_parameters=(TEAM_ID,),
        answers=(Answer(200, "The team.", Team, EXAMPLE),),
        errors=(_NO_TEAM,),
    )
    async def get(self, team_id: str) -> None:
        team = await self.run(teams.get_team, self.session, team_id=int(team_id))
        self.write_json(team_json(team))

    @operation(
        name="update_team",
        tag=TEAMS,
        summary="Rename a team",
        path_parameters=(TEAM_ID,),
        body_examples={"another name": {"name": _RENAMED}},
        answers=(Answer(200, "The team as it is now.", Team, {**EXAMPLE, "name": _RENAMED}),),
        errors=(_NO_TEAM, _NAME_TAKEN, _TOO_LONG),
    )
    async def patch(self, team_id: str, change: TeamChange) -> None:
        team = await self.run(teams.update_team, self.session, team_id=int(team_id), name=change.name)
        self.write_json(team_json(team))

    @operation(
        name="delete_team",
        tag=TEAMS,
        summary="Take a team away that has no tasks",
        path_parameters=(TEAM_ID,),
        answers=(Answer(204, "It is gone."),),
        errors=(_NO_TEAM, Conflict("the team still has tasks: transfer or delete them first")),
    )
    async def delete(self, team_id: str) -> None:
        await self.run(teams.delete_team, self.session, team_id=int(team_id))
        self.set_status(204)


ROUTES = (
    URLSpec("/teams", TeamsHandler, name="teams"),
    URLSpec(f"/teams/{SERIAL_ID_GROUP}", TeamHandler, name="team"),
)
