"""The command that shows the settings in force."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qsl

from conf import Settings
from conf.database import shown
from conf.names import Name, names

SUMMARY = "show the settings in force, and where each came from"

# 80 columns: two of indent, the longest name, two blanks, the value, two blanks, "environment DATABASE_URL".
_VALUE_WIDTH = 22

_DEFAULT = "default"  # as `Settings.origin_of` has it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON object, by setting")
    parser.add_argument("--changed", action="store_true", help="only those that are not the defaults")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the settings, secrets masked."""
    if arguments.json:
        print(as_json(settings, changed=arguments.changed))
    else:
        text = as_table(settings, changed=arguments.changed)
        print(_dimmed(text) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text)
    return 0


def _dimmed(table: str) -> str:
    """The table for a terminal, with the rows of defaults dimmed."""
    lines = table.split("\n")
    return "\n".join(f"\x1b[2m{line}\x1b[0m" if line.endswith("  default") else line for line in lines)


def as_json(settings: Settings, *, changed: bool = False) -> str:
    """Every setting by its path: value, origin, flag and variable.

    Args:
        changed: only settings that have another origin than the default.
    """
    entries = {
        name.path: {
            "value": _shown(settings, name),
            "origin": settings.origin_of(name.path),
            "flag": name.flag,
            "variable": name.variable,
        }
        for name in names().values()
        if not changed or _is_changed(settings, name)
    }
    return json.dumps(entries, indent=2, default=str)


def as_table(settings: Settings, *, changed: bool = False) -> str:
    """A block a section, a line a setting, each with its origin.

    Args:
        changed: only lines that have another origin than the default.
    """
    lines: list[str] = []
    section = None
    width = max(len(name.path.rpartition(".")[2]) for name in names().values())
    for name, label, value, origin in _rows(settings):
        if changed and origin == _DEFAULT:
            continue
        if name.section != section:
            section = name.section
            lines += ["", f"[{section}]"] if section else []
        row = f"{'  ' if section else ''}{label:<{width + 2 - (0 if section else -2)}}"
        if len(value) > _VALUE_WIDTH:
            lines += [row + value, " " * (width + 4 + _VALUE_WIDTH + 2) + origin]
        else:
            lines.append(f"{row}{value:<{_VALUE_WIDTH}}  {origin}")
    return "\n".join(lines).removeprefix("\n") or "all settings are the defaults"


def _is_changed(settings: Settings, name: Name) -> bool:
    """Whether a setting has another origin than the default, or an entry of its table has."""
    value = _shown(settings, name)
    keys = [f"{name.path}.{key}" for key in value] if isinstance(value, dict) else []
    return any(settings.origin_of(path) != _DEFAULT for path in (name.path, *keys))


def _rows(settings: Settings) -> Iterator[tuple[Name, str, str, str]]:
    url = settings.database.url
    # The URL's own query wins, and the table must not suggest that the file's did.
    overruled = dict(parse_qsl(url.get_secret_value().partition("?")[2])) if url is not None else {}
    for name in names().values():
        label = name.path.rpartition(".")[2]
        value = _shown(settings, name)
        if isinstance(value, dict) and value:
            for key, item in value.items():
                origin = settings.origin_of(f"{name.path}.{key}")
                if name.path == "database.query" and key in overruled:
                    origin += ", but the url overrides it"
                yield name, f"{label}.{key}", _text(item), origin
        else:
            yield name, label, _text(value), settings.origin_of(name.path)


def _shown(settings: Settings, name: Name) -> Any:
    return shown(attrgetter(name.path)(settings), name=name.path.rpartition(".")[2])


def _text(value: Any) -> str:
    if value in (None, {}, []):
        return "none"
    if isinstance(value, list):
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
