"""What a build makes of the four packages: one, `onfinish`, with the four in it.

In the tree, and in an editable install of it, they are `conf`, `db`, `handlers` and `server`: code to clone
and to change. Installed beside an application they would hide its packages of these names, or be hidden by
them. So a wheel has `onfinish.conf`, …, of the same source: the build puts the four under one package and
rewrites their imports of each other. It rewrites no string: a module that needs a package's name in one
derives it from ``__name__`` (`tests/packaging/test_strings.py`).

This file is the build backend too (`pyproject.toml`): setuptools' hooks, but for those that would put a
wheel's metadata where an editable install has its own.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from functools import wraps
from itertools import accumulate
from pathlib import Path
from typing import Any

# Without prepare_metadata_for_build_editable: setuptools' makes a wheel's, with other names of the packages.
# Where there is none, a build frontend reads the metadata from the editable wheel (PEP 660). And without
# get_requires_for_…, which are optional too, return nothing here, and leave metadata in the tree.
from setuptools import Distribution, build_meta, setup
from setuptools.build_meta import build_editable, prepare_metadata_for_build_wheel
from setuptools.command.build_py import build_py

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "move_imports",
    "prepare_metadata_for_build_wheel",
]

PACKAGES = ("conf", "db", "handlers", "server")
TOP = "onfinish"

_FROM = re.compile(rb"from[\s\\]+")


def _clean(hook: Callable[..., str]) -> Callable[..., str]:
    """A hook that removes the metadata which it leaves in the tree.

    There it would be found beside an editable install's, with entry points that are not in the tree.
    """

    @wraps(hook)
    def build(*arguments: Any, **options: Any) -> str:
        try:
            return hook(*arguments, **options)
        finally:
            shutil.rmtree(f"{TOP}.egg-info", ignore_errors=True)

    return build


build_sdist = _clean(build_meta.build_sdist)
build_wheel = _clean(build_meta.build_wheel)


def move_imports(source: str) -> str:
    """A module's source with the absolute imports of the four packages pointing at them under `TOP`.

    Nothing else changes, and no line moves, so tracebacks fit the lines of the tree. ``import db.errors``
    binds ``db``, and so does what it becomes: ``import onfinish.db.errors; from onfinish import db``.
    """
    text = source.encode()
    lines = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    insertions: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_moved(node.module or ""):
            keyword = _FROM.match(text, lines[node.lineno - 1] + node.col_offset)
            assert keyword is not None  # noqa: S101  # for the type checker: the grammar has it there
            insertions.append((keyword.end(), f"{TOP}."))
        elif isinstance(node, ast.Import):
            moved = [alias for alias in node.names if _is_moved(alias.name)]
            insertions += [(lines[each.lineno - 1] + each.col_offset, f"{TOP}.") for each in moved]
            bound = dict.fromkeys(each.name.partition(".")[0] for each in moved if each.asname is None)
            if bound and node.end_lineno is not None and node.end_col_offset is not None:
                end = lines[node.end_lineno - 1] + node.end_col_offset
                insertions.append((end, f"; from {TOP} import {', '.join(bound)}"))
    for at, inserted in sorted(insertions, reverse=True):
        text = text[:at] + inserted.encode() + text[at:]
    return text.decode()


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


class MovedDistribution(Distribution):  # type: ignore[misc]  # setuptools has no type hints
    """The four packages as one, except in an editable install, which is a path to the tree.

    Lives as long as the build. `setup.cfg` has the names of the tree.
    """

    packages: list[str]
    package_data: dict[str, list[str]]
    entry_points: dict[str, list[str]]

    def parse_command_line(self) -> bool:
        understood: bool = super().parse_command_line()
        if "editable_wheel" not in self.commands:
            self.packages = [f"{TOP}.{name}" for name in self.packages]
            self.package_dir = {f"{TOP}.{name}": name for name in PACKAGES}
            self.package_data = {f"{TOP}.{name}": files for name, files in self.package_data.items()}
            moved = rf"= {TOP}.\1"
            self.entry_points = {
                group: [re.sub(rf"=\s*({'|'.join(PACKAGES)})\b", moved, each) for each in entries]
                for group, entries in self.entry_points.items()
            }
            self.cmdclass["build_py"] = BuildMoved
        return understood


class BuildMoved(build_py):  # type: ignore[misc]  # setuptools has no type hints
    """Copies the modules with their imports moved, and makes the package that they are in."""

    def run(self) -> None:
        # An earlier build's modules, under whatever name, would be packed too.
        for name in (TOP, *PACKAGES):
            shutil.rmtree(Path(self.build_lib, name), ignore_errors=True)
        super().run()
        for path, text in self._made().items():
            path.write_text(text)

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        outfile, copied = super().build_module(module, module_file, package)
        built = Path(outfile)
        built.write_bytes(move_imports(built.read_bytes().decode()).encode())
        return outfile, copied

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._made())]

    def _made(self) -> dict[Path, str]:
        metadata = self.distribution.metadata
        package = f'"""{metadata.get_description()}."""\n\n__version__ = "{metadata.get_version()}"\n'
        folder = Path(self.build_lib, TOP)
        return {folder / "__init__.py": package, folder / "py.typed": ""}


if __name__ == "__main__":
    setup(distclass=MovedDistribution)
