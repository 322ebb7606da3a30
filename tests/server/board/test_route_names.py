"""What a metric calls the board's routes."""

from __future__ import annotations

from handlers.board.routes import routes
from server.monitoring.route_names import RouteNames


def test_a_route_is_named_by_its_path_and_its_arguments():
    """As it is written in the documentation: ``/tasks/{task_id}/transfer``."""
    names = RouteNames(routes())

    assert {name for _, name in names._all} >= {
        "/tasks",
        "/tasks/bulk",
        "/tasks/{task_id}",
        "/tasks/{task_id}/transfer",
        "/tasks/{task_id}/transfers",
        "/teams/{team_id}",
    }
