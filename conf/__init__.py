"""Checked settings from defaults, files, the process environment and flags."""

from __future__ import annotations

from conf.settings import DatabaseSettings

__all__ = ["DatabaseSettings"]
