"""The branches of migrations: the kernel's, and one for each package of `db` that has revisions of its own.

Such a package is found by its files, so that the kernel names none of them:

* ``db/<label>/migrations/``: its revisions, the first with ``branch_labels = ("<label>",)``;
* ``db/<label>/base.py``: the declarative ``Base`` of its tables;
* its other modules: the tables.

All branches that are there share one version table, and are migrated together.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import MetaData

# For their tables.
import db.idempotency
import db.work.commit_marker
from db.base import KernelBase

KERNEL = "kernel"

_DB = Path(__file__).parent.parent
_FOLDER = "migrations"


@dataclass(frozen=True)
class Branch:
    """A line of revisions and the tables that they make. Lives as long as the process."""

    label: str
    folder: Path
    """Where its revisions are."""

    @property
    def metadata(self) -> MetaData:
        """Its tables, all of them: every module of its package is imported."""
        if self.label == KERNEL:
            return KernelBase.metadata
        package = import_module(f"{db.__name__}.{self.label}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.ispkg:
                import_module(module.name)
        metadata: MetaData = import_module(f"{package.__name__}.base").Base.metadata
        return metadata


@cache
def branches() -> Mapping[str, Branch]:
    """Every branch of this installation, by its label; the kernel's is the first."""
    kernel = Branch(KERNEL, _DB / "schema" / _FOLDER / KERNEL)
    packages = sorted(path.parent for path in _DB.glob(f"*/{_FOLDER}") if path.parent.name != "schema")
    found = [kernel, *(Branch(package.name, package / _FOLDER) for package in packages)]
    return MappingProxyType({branch.label: branch for branch in found})
