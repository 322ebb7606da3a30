"""What a scope does to the code: the forms' source, and counts of it."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from typing import Any

from server.compare import forms

_MODEL = ("count_entries", "number_entry")


def code(scope_name: str) -> dict[str, Any]:
    """One form: its source from the first definition on, its lines, and its arguments.

    Returns:
        ``source``; ``lines`` of code without the imports, and how many of them are about sessions;
        ``parameters`` of the model functions, and the ``arguments`` that are passed to them.
    """
    text = inspect.getsource(import_module(f"{forms.__name__}.{scope_name}"))
    tree = ast.parse(text)
    shown = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr))]
    source = "\n".join(text.splitlines()[shown[0].lineno - 1 :])
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    return {
        "source": source,
        "lines": len(lines),
        "lines_about_sessions": sum("session" in line or "scope =" in line for line in lines),
        "parameters": sum(_parameters(node) for node in tree.body if isinstance(node, ast.FunctionDef)),
        "arguments": sum(_arguments(node) for node in ast.walk(tree) if isinstance(node, ast.Call)),
    }


def _parameters(function: ast.FunctionDef) -> int:
    return len(function.args.args) + len(function.args.kwonlyargs)


def _arguments(call: ast.Call) -> int:
    """How many arguments a call passes to a model function, directly or through ``run``."""
    if isinstance(call.func, ast.Name) and call.func.id in _MODEL:
        return len(call.args) + len(call.keywords)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "run":
        return len(call.args) - 1 + len(call.keywords)
    return 0
