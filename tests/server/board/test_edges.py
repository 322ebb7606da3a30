"""The board's paths and methods as no good client asks for them."""

from __future__ import annotations

import pytest
from tornado.web import Application

from handlers.board.routes import routes
from tests.fixtures.edge import Edge, StartEdge
from tests.server import test_edges

pytestmark = pytest.mark.gen_test

TASK_ID = "f2ee55c638084ebfb35a00c003670ad9"


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def edge(app: Application, start_edge: StartEdge) -> Edge:
    """The board, on the real server."""
    return start_edge(app)


ODD_TARGETS = [
    ("/tasks/%00", 404),
    (f"/tasks/{TASK_ID}%00", 404),
    (f"/tasks/{TASK_ID}%0a", 404),
    ("/tasks/../teams", 404),
    ("//tasks", 404),
    ("/tasks/", 404),
    ("/teams/0", 404),
    ("/teams/-1", 404),
    ("/teams/99999999999999999999", 404),
    ("/teams/999999999999999999", 404),
    ("/tasks?unknown=1", 400),
    ("/tasks?limit=1&limit=2", 400),
    ("/tasks?limit=%ff", 400),
    ("/tasks?bundle=%ff", 400),
    ("/tasks?bundle=%00", 400),
    ("/tasks?%ff=1", 400),
    ("/tasks?\xff=1", 400),
    ("/tasks?=1", 400),
    ("/tasks?limit", 400),
    ("/tasks?limit=", 400),
    ("/tasks?limit=" + "9" * 5000, 400),
    ("/tasks?cursor=" + "x" * 20_000, 400),
]


async def test_an_odd_target_is_refused(edge: Edge, subtests: pytest.Subtests):
    await test_edges.check_odd_targets(edge, ODD_TARGETS, subtests)


@pytest.mark.parametrize(
    ("path", "allowed"), test_edges.allowed_by_the_code(routes(), {"/teams/": "1", "/tasks/": TASK_ID})
)
async def test_every_other_method_is_refused_with_those_that_are_there(edge: Edge, path: str, allowed: str):
    """405 with a right Allow, on each route; OPTIONS says the same."""
    await test_edges.test_every_other_method_is_refused_with_those_that_are_there(edge, path, allowed)
