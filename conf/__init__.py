"""Checked settings from defaults, files, the process environment and flags."""

from __future__ import annotations

from conf.database import DatabaseSettings
from conf.errors import Fault, SettingsError
from conf.loading import load_settings
from conf.redaction import RedactingFilter
from conf.settings import CompareSettings, HttpSettings, LogSettings, OpsSettings, Settings

__all__ = [
    "CompareSettings",
    "DatabaseSettings",
    "Fault",
    "HttpSettings",
    "LogSettings",
    "OpsSettings",
    "RedactingFilter",
    "Settings",
    "SettingsError",
    "load_settings",
]
