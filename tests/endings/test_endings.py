"""Random programs, each one request on a real socket, against the oracle."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings

from tests.endings.known import KNOWN
from tests.endings.oracle import broken_promises
from tests.endings.programs import Program, programs
from tests.endings.world import World, world  # noqa: F401

pytestmark = pytest.mark.every_driver


def explore(world: World, *, examples: int, derandomize: bool) -> None:  # noqa: F811
    """Play random programs."""

    @hypothesis_settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(programs())
    def play(program: Program) -> None:
        record = world.play(program)
        assert broken_promises(record) == [], "\n".join(
            f"attempt {attempt.number}: {event}" for attempt in record.attempts for event in attempt.events
        )

    play()


def test_each_known_ending_keeps_every_promise(world: World, subtests: pytest.Subtests):  # noqa: F811
    """What once went wrong, each by name."""
    for name, program in KNOWN.items():
        record = world.play(program)
        with subtests.test(name):
            assert broken_promises(record) == []


def test_every_promise_holds(world: World):  # noqa: F811
    """Some hundred programs, the same in each run."""
    explore(world, examples=150, derandomize=True)


@pytest.mark.long
def test_every_promise_holds_for_long(world: World):  # noqa: F811
    """Five thousand, others in each run."""
    explore(world, examples=5000, derandomize=False)
