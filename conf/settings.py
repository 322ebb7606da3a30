"""The settings: one checked, frozen model a section."""

from __future__ import annotations

from conf.database import DatabaseSettings, Section

__all__ = ["DatabaseSettings", "Section"]
