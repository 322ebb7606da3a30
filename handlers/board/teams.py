"""Teams over HTTP."""

from __future__ import annotations

from db.board import teams
from handlers.base import SessionHandler
from handlers.board.responses import team_json
from handlers.idempotency import IdempotentHandler
from handlers.json_api.body import TeamChange, TeamNew, read_body


class TeamsHandler(IdempotentHandler):
    """``/teams``. Lives as long as one attempt at a request, as every handler here."""

    async def get(self) -> None:
        rows = await self.run(teams.list_teams, self.session)
        self.write_json({"items": [team_json(team) for team in rows]})

    async def post(self) -> None:
        new = await read_body(self, TeamNew)
        team = await self.run(teams.create_team, self.session, name=new.name)
        self.set_header("Location", f"{self.request.path}/{team.id}")
        self.write_json(team_json(team), 201)


class TeamHandler(SessionHandler):
    """``/teams/{id}``."""

    async def get(self, team_id: str) -> None:
        team = await self.run(teams.get_team, self.session, team_id=int(team_id))
        self.write_json(team_json(team))

    async def patch(self, team_id: str) -> None:
        change = await read_body(self, TeamChange)
        team = await self.run(teams.update_team, self.session, team_id=int(team_id), name=change.name)
        self.write_json(team_json(team))

    async def delete(self, team_id: str) -> None:
        await self.run(teams.delete_team, self.session, team_id=int(team_id))
        self.set_status(204)
