"""The branches of migrations: the kernel's, and the application's own.

In the clone each package of `db` that has revisions is a branch. It is found by its files, so that the
kernel names none of them:

* ``db/<label>/migrations/``: its revisions, the first with ``branch_labels = ("<label>",)``;
* ``db/<label>/``: its tables, in any of its modules.

An application beside an installed onfinish names the modules of its tables by ``database.models``. They are
one branch, `APPLICATION`, in place of those that are found; its revisions are in the folder ``migrations`` in
the first of these packages, or beside the first where that is a module.

All branches that are there share one version table, and are migrated together.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from sqlalchemy import MetaData, Table

# For their tables.
import db.idempotency
import db.work.commit_marker
from db.base import KernelBase
from db.errors import SchemaError

KERNEL = "kernel"

APPLICATION = "app"
"""The label of the branch that ``database.models`` makes."""

_DB = Path(__file__).parent.parent
_FOLDER = "migrations"


@dataclass(frozen=True)
class Branch:
    """A line of revisions and the tables that they make. Lives as long as the process."""

    label: str
    folder: Path
    """Where its revisions are."""
    names: tuple[str, ...]
    """The modules of its tables. A package stands for all modules in it, but for its revisions."""

    @cached_property
    def modules(self) -> Mapping[str, ModuleType]:
        """All of its modules, imported.

        Raises:
            SchemaError: one cannot be imported.
        """
        return {name: _imported(name) for each in self.names for name in self._within(each)}

    @cached_property
    def metadata(self) -> tuple[MetaData, ...]:
        """What its tables belong to: the metadata in its modules, and that of their classes and tables.

        Raises:
            SchemaError: a module cannot be imported.
        """
        found = {
            id(metadata): metadata
            for module in self.modules.values()
            for value in [*vars(module).values()]
            if (metadata := self._metadata_of(value)) is not None
        }
        if self.label != KERNEL:
            found.pop(id(KernelBase.metadata), None)
        return tuple(found.values())

    @property
    def tables(self) -> list[Table]:
        """Its tables, each after those that it refers to."""
        return [table for metadata in self.metadata for table in metadata.sorted_tables]

    def _metadata_of(self, value: object) -> MetaData | None:
        if isinstance(value, Table) or (isinstance(value, type) and value.__module__ in self.modules):
            value = getattr(value, "metadata", None)
        return value if isinstance(value, MetaData) else None

    def _within(self, name: str) -> Iterator[str]:
        yield name
        prefix = f"{name}."
        for path in getattr(_imported(name), "__path__", ()):
            for found in pkgutil.iter_modules([path], prefix):
                part = found.name.removeprefix(prefix)
                if part != "__main__" and Path(path, part) != self.folder:
                    yield from self._within(found.name)


@cache
def branches(models: tuple[str, ...] = ()) -> Mapping[str, Branch]:
    """Every branch by its label; the kernel's is the first.

    Args:
        models: the setting ``database.models``.

    Raises:
        SchemaError: the first of these modules cannot be imported.
    """
    own = (db.idempotency.__name__, db.work.commit_marker.__name__)
    found = [Branch(KERNEL, _DB / "schema" / _FOLDER / KERNEL, own)]
    if models:
        found.append(Branch(APPLICATION, _folder_of(models), models))
    else:
        folders = sorted(path for path in _DB.glob(f"*/{_FOLDER}") if path.parent.name != "schema")
        for folder in folders:
            label = folder.parent.name
            found.append(Branch(label, folder, (f"{db.__name__}.{label}",)))
    return MappingProxyType({branch.label: branch for branch in found})


def _folder_of(models: Sequence[str]) -> Path:
    first = _imported(models[0])
    for path in getattr(first, "__path__", ()):
        return Path(path, _FOLDER)
    return Path(str(first.__file__)).parent / _FOLDER


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise SchemaError(
            f"there is no module {name} (database.models): run the command in the folder that has it, "
            f"install it, or add its folder to PYTHONPATH; this is {os.getcwd()}"
        ) from error
