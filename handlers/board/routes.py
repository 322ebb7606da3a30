"""Routes: which path goes to which handler."""

from __future__ import annotations

from tornado.routing import URLSpec

from handlers.board.export import ExportHandler
from handlers.board.tasks import (
    BulkHandler,
    ClaimHandler,
    TaskHandler,
    TasksHandler,
    TransferHandler,
    TransfersHandler,
)
from handlers.board.teams import TeamHandler, TeamsHandler

# An id that could be none matches no path, and is not found as any other id that does not exist.
TASK_ID = "([0-9a-f]{32})"
TEAM_ID = "([1-9][0-9]{0,17})"  # below 2**63, so that it fits every database's integer
TEAM_ID_MAX = 10**18 - 1


def routes() -> list[URLSpec]:
    """The board. Whatever is not here is for the application's default handler, which answers 404."""
    return [
        URLSpec("/tasks", TasksHandler, name="tasks"),
        URLSpec("/tasks/bulk", BulkHandler, name="bulk"),
        URLSpec("/tasks/claim", ClaimHandler, name="claim"),
        URLSpec("/tasks/export", ExportHandler, name="export"),
        URLSpec(f"/tasks/{TASK_ID}", TaskHandler, name="task"),
        URLSpec(f"/tasks/{TASK_ID}/transfer", TransferHandler, name="transfer"),
        URLSpec(f"/tasks/{TASK_ID}/transfers", TransfersHandler, name="transfers"),
        URLSpec("/teams", TeamsHandler, name="teams"),
        URLSpec(f"/teams/{TEAM_ID}", TeamHandler, name="team"),
    ]
