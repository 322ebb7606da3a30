"""The scenarios: each a function whose docstring is its promise, the same for every scope."""

from __future__ import annotations

# Imported for the scenarios that they register, in the order of the list.
# isort: off
from server.compare.scenarios import requests
from server.compare.scenarios import faults
from server.compare.scenarios import executors
from server.compare.scenarios import background
from server.compare.scenarios import jobs
from server.compare.scenarios import uploads
from server.compare.scenarios import sockets
from server.compare.scenarios import traps

# isort: on
from server.compare.scenarios.base import GROUPS, SCENARIOS, Scenario, run_scenario

__all__ = [
    "GROUPS",
    "SCENARIOS",
    "Scenario",
    "background",
    "executors",
    "faults",
    "jobs",
    "requests",
    "run_scenario",
    "sockets",
    "traps",
    "uploads",
]
