"""The names of every setting: in TOML, as a flag, as a variable."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from conf.settings import Settings


@dataclass(frozen=True)
class Name:
    """One setting. Lives as long as the process, as does the model that it was read from."""

    path: str
    field: FieldInfo

    @property
    def section(self) -> str:
        """``database`` of ``database.pool_size``; empty for what stands above the sections."""
        return self.path.rpartition(".")[0]

    @property
    def words(self) -> str:
        """The setting outside of its section, by one rule for flags and variables.

        A name of several words is clear by itself: ``pool_size``. A name of one word gets its section as a
        prefix: ``database_url``, ``ops_port``. The section ``http`` is no prefix, so that its port is PORT.
        """
        name = self.path.rpartition(".")[2]
        return name if self.section in ("", "http") or "_" in name else f"{self.section}_{name}"

    @property
    def flag(self) -> str:
        return "--" + self.words.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.words.upper()

    @property
    def optional(self) -> bool:
        return NoneType in get_args(self.field.annotation)

    @property
    def types(self) -> tuple[Any, ...]:
        """What the value may be: ``(int,)`` of ``int | None``."""
        annotation = self.field.annotation
        arms = [arm for arm in get_args(annotation) if arm is not NoneType] if self.optional else [annotation]
        # Annotated[float, …] and dict[str, …] are what they are made of; a Literal stays what it is.
        return tuple(arm if get_origin(arm) is Literal else getattr(arm, "__origin__", arm) for arm in arms)

    @property
    def secret(self) -> bool:
        return SecretStr in self.types

    @property
    def table(self) -> bool:
        """Whether its value is a table itself, merged key by key: ``database.query``."""
        return dict in self.types


@cache
def names(model: type[BaseModel] = Settings) -> Mapping[str, Name]:
    """Every setting of the model by its path, in the order of their definition.

    Raises:
        TypeError: two settings have one flag, so that the flag would set the last of them. Rename one.
    """
    found = {name.path: name for name in _walk(model, "")}
    taken: dict[str, str] = {}
    for name in found.values():
        other = taken.setdefault(name.words, name.path)
        if other != name.path:
            raise TypeError(f"{name.flag} and {name.variable} mean both {other} and {name.path}: rename one")
    return found


def near(unknown: str, known: list[str]) -> str:
    """``; did you mean …?``, or nothing. Looks at the last part too: a key in the wrong section."""
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.7)
    if not close:
        last = unknown.rpartition(".")[2]
        close = [path for path in known if path.rpartition(".")[2] == last]
    return f"; did you mean {close[0]}?" if close else ""


def _walk(model: type[BaseModel], section: str) -> Iterator[Name]:
    for name, field in model.model_fields.items():
        path = f"{section}.{name}" if section else name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, path)
        else:
            yield Name(path, field)
