"""Scenarios, in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

from conf import DatabaseSettings
from server.compare.processes import when_closed
from server.compare.scenarios import SCENARIOS, run_scenario
from server.compare.scenarios.base import DEADLINE_S
from server.compare.sentences import in_a_sentence

Step = tuple[str, str]
"""A scenario and a scope, by their names."""


def play(pipe: Connection, settings: DatabaseSettings, steps: list[Step], deadline_s: float) -> None:
    """Run scenarios one after the other; sends the result of each."""
    _be_quiet()
    when_closed(pipe, lambda: os._exit(0))
    asyncio.run(_play(pipe, settings, steps, deadline_s))


async def _play(pipe: Connection, settings: DatabaseSettings, steps: list[Step], deadline_s: float) -> None:
    for name, scope in steps:
        began = time.perf_counter()
        result: dict[str, Any]
        try:
            verdict = await run_scenario(SCENARIOS[name], scope, settings, deadline_s=deadline_s)
        except TimeoutError:
            result = {"verdict": "hung", "reason": f"ended by its deadline of {deadline_s:g} s"}
        except Exception as error:  # noqa: BLE001  # reported, and the comparison goes on
            result = {"verdict": "failed", "reason": f"{type(error).__name__}: {error}"}
            result["evidence"] = {"traceback": traceback.format_exc()}
        else:
            result = {
                "verdict": verdict.kind.value,
                "reason": verdict.reason,
                "also": [kind.value for kind in verdict.also],
                "sentence": in_a_sentence(verdict),
                "evidence": verdict.evidence.as_json(),
            }
        pipe.send({**result, "took_s": round(time.perf_counter() - began, 3)})


def _be_quiet() -> None:
    """Log nothing: what fails on purpose is evidence, and would stand between the lines of the table."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


__all__ = ["DEADLINE_S", "Step", "play"]
