"""Random programs, each one request on a real socket, against the oracle."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings

from tests.endings.known import KNOWN, SLOW_ONES
from tests.endings.oracle import broken_promises
from tests.endings.programs import Program, programs
from tests.endings.world import World

pytestmark = [
    pytest.mark.every_driver("postgresql+asyncpg"),
    # Of a `run` that a program does not await, when the collector comes by.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

EXAMPLES = 150
EXAMPLES_LONG = 5000


def play_by_name(world: World, named: Mapping[str, Program], subtests: pytest.Subtests) -> None:
    """Play programs, each a test of its own."""
    for name, program in named.items():
        record = world.play(program)
        with subtests.test(name):
            assert broken_promises(record) == []


def explore(world: World, *, examples: int, derandomize: bool) -> None:
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


def test_each_known_ending_keeps_every_promise(world: World, subtests: pytest.Subtests):
    """What once went wrong, each by name."""
    play_by_name(world, KNOWN, subtests)


@pytest.mark.long
def test_each_slow_ending_keeps_every_promise(world: World, subtests: pytest.Subtests):
    """The same, of those whose statements or COMMITs hang."""
    play_by_name(world, SLOW_ONES, subtests)


@pytest.mark.every_driver
def test_every_promise_holds(world: World):
    """Some hundred programs, the same in each run."""
    explore(world, examples=EXAMPLES, derandomize=True)


@pytest.mark.long
def test_every_promise_holds_for_long(world: World):
    """Five thousand, others in each run."""
    explore(world, examples=EXAMPLES_LONG, derandomize=False)
