"""Tests that run once more, in another module and with its fixtures."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import Any

from _pytest.fixtures import FixtureFunctionDefinition


def again(*modules: ModuleType, but: Collection[str] = ()) -> dict[str, Any]:
    """What a module adds to its ``globals()`` to have the tests of others, but those of one backend alone.

    Their fixtures come along; a fixture of the same name that is defined below goes before.

    Args:
        but: names of tests to leave out.
    """
    known = {name for module in modules for name in vars(module)}
    unknown = set(but) - known
    if unknown:
        raise ValueError(f"no such tests: {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {}
    for module in modules:
        marks = getattr(module, "pytestmark", [])
        for name, value in vars(module).items():
            if name.startswith("__") or name in ("pytestmark", *but):
                continue
            if name.startswith("test_"):
                if _is_for_one_backend(value):
                    continue
                for mark in marks if isinstance(marks, list) else [marks]:
                    mark(value)  # stays with the module otherwise
                if name in found:
                    name = f"{name}__{module.__name__.rpartition('.')[2]}"
            elif isinstance(value, FixtureFunctionDefinition) and found.get(name, value) is not value:
                raise ValueError(f"two fixtures are called {name}: give their tests a module each")
            found[name] = value
    return found


def _is_for_one_backend(test: Any) -> bool:
    return any(
        mark.name == "parametrize" and "backend" in mark.args[0] for mark in getattr(test, "pytestmark", ())
    )
