"""The routes of the board, and how the document at ``/openapi.json`` introduces it."""

from __future__ import annotations

from sqlalchemy import exists, select
from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from conf.program import COMMAND
from db.board.tasks import Task
from handlers.board import export, tasks, teams, transfers
from handlers.openapi.document import About


def first_step(session: Session) -> str | None:
    """What to do with a board that has no tasks yet; None where it has some."""
    if session.scalar(select(exists().select_from(Task))):
        return None
    return f"the board is empty: `{COMMAND} seed` adds example teams and tasks"


ABOUT = About(
    title="onfinish",
    summary="A board of QA tasks; every request is one transaction.",
    description="A board of bulk QA tasks that belong to teams and move between them.",
    license={"name": "MIT", "identifier": "MIT"},
    first_step=first_step,
)


def routes() -> list[URLSpec]:
    """Those of each resource. Any other path is for the application's default handler, which answers 404."""
    return [*tasks.ROUTES, *export.ROUTES, *transfers.ROUTES, *teams.ROUTES]
