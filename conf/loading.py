"""The loading of settings: which source wins over which, every fault of all of them at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from conf import database
from conf.errors import Fault, SettingsError
from conf.names import names
from conf.settings import DEFAULT_URL, HARMLESS, Settings, together_faults
from conf.sources import CHOOSERS, Source, read_file, read_flags, read_variables
from conf.text import reason

_URL = "database.url"
_PARTS = tuple(f"database.{part}" for part in database.PARTS)


def load_settings(
    argv_overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings in force: defaults, over them the environment's file, then variables, then flags.

    Reads that file and nothing else; changes nothing.

    Args:
        argv_overrides: settings by their path, ``{"http.port": "0"}``, as text or as what it stands for.
        environ: variables by name; None is the process environment.

    Raises:
        SettingsError: with every fault of every source.
    """
    variables = read_variables(os.environ if environ is None else environ)
    flags = read_flags(argv_overrides or {})
    given = variables.values | flags.values
    origins = variables.origins | flags.origins
    faults = [*variables.faults, *flags.faults]

    environment = given.get("environment", Settings.model_fields["environment"].default)
    conf_dir: Path | None = given.get("conf_dir")
    if any(fault.setting in CHOOSERS for fault in faults):
        file = Source()
    else:
        file = read_file(environment, conf_dir, origins=origins)
        faults = [*file.faults, *faults]
    _displace(file, given)

    values = file.values | given
    if not values.keys() & {_URL, *_PARTS} and environment in HARMLESS:
        file.put(_URL, DEFAULT_URL, "default")
        values[_URL] = DEFAULT_URL
    origins = file.origins | origins

    settings: Settings | None = None
    try:
        settings = Settings(**_merged(_merged(file.tree(), variables.tree()), flags.tree()))
    except ValidationError as exc:
        faults += _faults_of_values(exc, origins)
    faults += _faults_together(values, origins, faults)
    if faults or settings is None:
        raise SettingsError(faults)
    settings._origins.update(origins)
    return settings


def _displace(file: Source, given: Mapping[str, Any]) -> None:
    """Let a URL from a variable or flag displace the parts in the file, and such parts the file's URL.

    Otherwise parts could not be used in an environment whose file names a URL. Within one layer, url and
    parts together are a contradiction, and are reported as one.
    """
    if _URL in given:
        for part in _PARTS:
            file.drop(part)
    elif given.keys() & set(_PARTS):
        file.drop(_URL)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values by section, those of ``above`` first; tables are merged."""
    both = {
        name: _merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}


def _faults_of_values(error: ValidationError, origins: Mapping[str, str]) -> list[Fault]:
    """The models' faults of single settings. Those of several together come from :func:`_faults_together`."""
    faults: dict[str, Fault] = {}
    for detail in error.errors(include_url=False):
        loc = [str(part) for part in detail["loc"]]
        name = names().get(".".join(loc[:1])) or names().get(".".join(loc[:2]))
        if name is None:
            continue
        # An entry of a table; what follows are the arms of a union, one fault each.
        path = ".".join(loc[:3]) if name.table else name.path
        faults.setdefault(
            path, Fault(path, origins.get(path, origins.get(name.path, "")), reason(detail, name))
        )
    return list(faults.values())


def _faults_together(
    values: Mapping[str, Any], origins: Mapping[str, str], faults: Sequence[Fault]
) -> list[Fault]:
    """What is wrong with settings that are each right alone.

    The models make the same checks, but only once each of their values is right by itself.
    """
    found = {
        f"database.{name}": message for name, message in database.together_faults(_section(values)).items()
    }
    reported = {fault.setting for fault in faults}
    if not reported & set(CHOOSERS):
        found |= together_faults(values)
    if _URL in found and _URL not in origins:
        if reported & {_URL, *_PARTS, *CHOOSERS, ""}:  # it was, or may have been, in what could not be read
            del found[_URL]
        else:
            name = names()[_URL]
            found[_URL] = (
                f"not set, and environment {values.get('environment', 'development')!r} has no default: "
                f"set {name.variable} or {name.flag} to postgresql://user:password@host/name, or give "
                "its parts (DATABASE_DRIVERNAME, DATABASE_HOST, ...)"
            )
    return [Fault(path, _origins(path, values, origins), text) for path, text in found.items()]


def _origins(path: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Where a setting came from; for a URL that contradicts its parts, the origins of all of them."""
    if path != _URL or path not in values:
        return origins.get(path, "")
    found = [origins[name] for name in (_URL, *_PARTS) if name in values]
    return ", ".join(dict.fromkeys(found))


def _section(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path.removeprefix("database."): value
        for path, value in values.items()
        if path.startswith("database.")
    }
