"""What the modules of a tree import of each other, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Graph = Mapping[str, set[str]]


def modules_of(root: Path, packages: Sequence[str]) -> dict[str, Path]:
    """The modules of some packages, by name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
    }


def graph_of(modules: Mapping[str, Path]) -> Graph:
    """What each module imports of the others: at its top, in functions and for type checkers alike."""
    return {
        name: {
            imported
            for node in ast.walk(ast.parse(path.read_text()))
            for imported in _imported(node, modules)
            if imported != name
        }
        for name, path in modules.items()
    }


def circles_of(graph: Graph) -> list[set[str]]:
    """Sets of modules of which each imports every other one, directly or not."""
    reached = {name: _reached_from(name, graph) for name in graph}
    circles = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
        if name in reached[name]
    }
    return [set(circle) for circle in circles]


def imports_in_functions(modules: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Imports of these modules in a function, or for type checkers only: by which module, and of which."""
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                yield from ((name, each) for inner in ast.walk(node) for each in _imported(inner, modules))


def _imported(node: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield from (each for each in (full if full in modules else node.module,) if each in modules)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)


def _reached_from(name: str, graph: Graph) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        for imported in graph[waiting.pop()] - reached:
            reached.add(imported)
            waiting.append(imported)
    return reached
