"""The scenarios: each a function whose docstring is its promise, the same for every scope."""

from __future__ import annotations

# Imported for what they add to the list, in the order in which it is to be read.
# isort: off
from server.compare.scenarios import requests
from server.compare.scenarios import executors
from server.compare.scenarios import background
from server.compare.scenarios import uploads
from server.compare.scenarios import sockets
from server.compare.scenarios import traps

# isort: on
from server.compare.scenarios.base import SCENARIOS, Scenario, run_scenario

__all__ = [
    "SCENARIOS",
    "Scenario",
    "background",
    "executors",
    "requests",
    "run_scenario",
    "sockets",
    "traps",
    "uploads",
]
