"""What is wrong with settings.

SettingsError       the settings cannot be used; holds every Fault
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. Lives as long as its SettingsError. Holds no secret, so it may be shown."""

    setting: str
    origin: str
    """``conf/development.toml``, ``environment PORT``, ``flag --port``; empty where nothing was given."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin, self.setting, self.message) if part)


class SettingsError(ValueError):
    """The settings cannot be used. Nothing was made of them.

    ``faults`` lists all that is wrong, never less than one thing.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = "a setting is wrong" if len(self.faults) == 1 else f"{len(self.faults)} settings are wrong"
        super().__init__("\n".join([f"{count}:", *(f"  {fault}" for fault in self.faults)]))
