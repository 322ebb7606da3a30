"""The routes of the board, and how the document at ``/openapi.json`` introduces it."""

from __future__ import annotations

from tornado.routing import URLSpec

from handlers.board import export, tasks, teams, transfers
from handlers.openapi.document import About

ABOUT = About(
    title="onfinish",
    summary="A board of QA tasks; every request is one transaction.",
    description="A board of bulk QA tasks that belong to teams and move between them.",
    license={"name": "MIT", "identifier": "MIT"},
)


def routes() -> list[URLSpec]:
    """Those of each resource. Any other path is for the application's default handler, which answers 404."""
    return [*tasks.ROUTES, *export.ROUTES, *transfers.ROUTES, *teams.ROUTES]
