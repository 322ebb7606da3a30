"""The sources of settings: an environment's file, variables, flags."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from conf.errors import Fault
from conf.masks import mask_text
from conf.names import Name, names, near
from conf.text import from_text

_PACKAGE = __name__.rpartition(".")[0]

# They choose the file, so the file cannot choose them.
CHOOSERS = ("environment", "conf_dir")


class Source:
    """One source's values of settings, and its faults. Lives as long as the loading does."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.faults: list[Fault] = []

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set a value; for a table, record the origin of each entry, since tables are merged."""
        self.values[path] = value
        self.origins[path] = origin
        if isinstance(value, dict):
            self.origins |= {f"{path}.{key}": origin for key in value}

    def put_given(self, name: Name, value: Any, origin: str) -> None:
        """Set a value that may be text only."""
        try:
            self.put(name.path, from_text(name, value) if isinstance(value, str) else value, origin)
        except ValueError as exc:
            self.faults.append(Fault(name.path, origin, str(exc)))

    def drop(self, path: str) -> None:
        """Remove a setting, as though it had not been given."""
        self.values.pop(path, None)
        self.origins.pop(path, None)

    def tree(self) -> dict[str, Any]:
        """The values as the models take them: a table a section."""
        tree: dict[str, Any] = {}
        for path, value in self.values.items():
            section, _, name = path.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[name] = value
        return tree


def read_flags(overrides: Mapping[str, Any]) -> Source:
    """The settings of the command line, by path; a value may be text or what it stands for."""
    source = Source()
    for path, value in overrides.items():
        name = names().get(path)
        if name is None:
            source.faults.append(Fault(mask_text(path), "", f"no such setting{near(path, list(names()))}"))
        else:
            source.put_given(name, value, f"flag {name.flag}")
    return source


def read_variables(environ: Mapping[str, str]) -> Source:
    """The settings of the process environment. Other variables are ignored.

    An empty one counts as not set: that is what ``PORT=${PORT:-}`` in a compose file means.
    """
    source = Source()
    for name in names().values():
        if text := environ.get(name.variable):
            source.put_given(name, text, f"environment {name.variable}")
    return source


def read_file(environment: str, conf_dir: Path | None, *, origins: Mapping[str, str]) -> Source:
    """The settings of the environment's file.

    Args:
        environment: names the file.
        conf_dir: its folder; None is this package, wherever it is installed.
        origins: where those two came from, for the message when there is no such file.
    """
    source = Source()
    folder: Traversable = files(_PACKAGE) if conf_dir is None else conf_dir
    shown = mask_text(str(conf_dir))
    try:
        choices = sorted(
            item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
        )
    except OSError as exc:
        source.faults.append(Fault("conf_dir", origins.get("conf_dir", ""), f"{shown}: {exc.strerror}"))
        return source
    if environment not in choices:
        where = f" in {shown}" if conf_dir is not None else ""
        known = (
            f"is not one of {', '.join(choices)}" if choices else "is not there, nor any other *.toml file,"
        )
        message = f"{mask_text(repr(environment))} {known}{where}{near(environment, choices)}"
        source.faults.append(Fault("environment", origins.get("environment", ""), message))
        return source

    origin = f"{_PACKAGE.replace('.', '/') if conf_dir is None else shown}/{environment}.toml"
    try:
        tree = tomllib.loads((folder / f"{environment}.toml").read_text("utf-8"))
    except OSError as exc:
        source.faults.append(Fault("", origin, f"cannot be read: {exc.strerror}"))
    except UnicodeDecodeError as exc:
        source.faults.append(Fault("", origin, f"not UTF-8 at byte {exc.start}"))
    except tomllib.TOMLDecodeError as exc:
        source.faults.append(Fault("", origin, f"not TOML: {mask_text(str(exc))}"))
    else:
        for path, value in _leaves(tree, "", source, origin):
            source.put(path, value, origin)
    return source


def _leaves(tree: Mapping[str, Any], section: str, source: Source, origin: str) -> Iterator[tuple[str, Any]]:
    """The settings of a parsed file by their paths. An unknown name becomes a fault of the source."""
    known = names()
    sections = {name.section for name in known.values()} - {""}
    for key, value in tree.items():
        path = f"{section}.{key}" if section else key
        if path in CHOOSERS:
            message = (
                f"chooses this file, so it cannot be in it: use {known[path].variable}, {known[path].flag}"
            )
            source.faults.append(Fault(path, origin, message))
        elif path in known:
            yield path, value
        elif path not in sections:
            message = f"no such setting{near(path, [*known, *sections])}"
            source.faults.append(Fault(mask_text(path), origin, message))
        elif isinstance(value, dict):
            yield from _leaves(value, path, source, origin)
        else:
            source.faults.append(Fault(path, origin, f"is a section: write [{path}], and its settings below"))
