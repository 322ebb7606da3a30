"""What a scenario is, and the list of all of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from conf import DatabaseSettings
from server.compare.verdicts import Verdict
from server.compare.world import World

Play = Callable[[World], Awaitable[None]]

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Scenario:
    """Something that handlers do, and its promise. A constant."""

    name: str
    title: str
    group: str
    promise: str
    play: Play
    source: str
    pool_timeout_s: float


GROUPS = {
    "requests": "an ordinary request",
    "faults": "errors, COMMIT, the pool",
    "executors": "threads",
    "background": "background work",
    "jobs": "jobs, scripts, tests",
    "uploads": "streamed uploads",
    "sockets": "WebSockets",
    "traps": "mistakes",
}
"""What one does, by the module that has the scenarios of it."""

SCENARIOS: dict[str, Scenario] = {}
"""All scenarios by their names, in the order in which they are run."""


def scenario(title: str, *, pool_timeout_s: float = 0.5) -> Callable[[Play], Play]:
    """Register a function in `SCENARIOS`; its name is the scenario's, its docstring the promise."""

    def add(play: Play) -> Play:
        name = play.__name__
        promise = inspect.cleandoc(play.__doc__ or "").replace("``", "`")
        group = GROUPS[play.__module__.rpartition(".")[2]]
        SCENARIOS[name] = Scenario(name, title, group, promise, play, inspect.getsource(play), pool_timeout_s)
        return play

    return add


async def run_scenario(
    scenario: Scenario, column: str, settings: DatabaseSettings, *, deadline_s: float = DEADLINE_S
) -> Verdict:
    """Run one scenario under one column.

    Args:
        settings: of a scratch database; what the scenario commits stays there.
        deadline_s: how long it may take.

    Raises:
        TimeoutError: it was not over by then.
    """
    async with World(settings, column, pool_timeout_s=scenario.pool_timeout_s) as world:
        async with asyncio.timeout(deadline_s):
            await scenario.play(world)
            return await world.verdict()
