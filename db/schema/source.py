"""The text of a revision: Python as a formatter would leave it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

WIDTH = 88
"""Black's. What is broken here ends with a comma, so that formatters with wider lines keep it."""

_INSTALLED = ("onfinish", "sqlalchemy")
"""The packages that stand with SQLAlchemy and Alembic, before those of the application."""

_INDENT = "    "


def revision_text(message: str, variables: Mapping[str, object], body: str, imports: Iterable[str]) -> str:
    """A revision's file.

    Args:
        message: its docstring.
        variables: what Alembic reads: ``revision``, ``down_revision``, …
        body: the statements of ``upgrade``.
        imports: statements ``from … import …``, besides those of SQLAlchemy and Alembic.
    """
    escaped = re.sub(r'["\\]', r"\\\g<0>", message.strip())
    names: dict[str, set[str]] = {}
    for _, module, _, name in map(str.split, imports):
        names.setdefault(module, set()).add(name)
    froms = [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]
    installed = [line for line in froms if line.split()[1].partition(".")[0] in _INSTALLED]
    own = [line for line in froms if line not in installed]
    head = ["import sqlalchemy as sa", *sorted([*installed, "from alembic import op"])]
    head += ["", *own] if own else []
    constants = [f"{name} = {_flat(_expression(repr(value)))}" for name, value in variables.items()]
    statements = _block(ast.parse(body).body, _INDENT)
    return "\n".join(
        [
            f'"""{escaped}{"" if escaped.endswith((".", "?", "!")) else "."}"""',
            "",
            "from __future__ import annotations",
            "",
            *(head if "sa." in body else head[1:]),
            "",
            *constants,
            "",
            "",
            "def upgrade() -> None:",
            *statements,
            "",
        ]
    )


def _block(statements: Iterable[ast.stmt], indent: str) -> Iterator[str]:
    for statement in statements:
        match statement:
            case ast.With(items=[ast.withitem(context_expr=context, optional_vars=ast.Name(id=name))]):
                yield f"{indent}with {_spread(context, indent, len(indent) + 5)} as {name}:"
                yield from _block(statement.body, indent + _INDENT)
            case ast.Expr(value=value):
                yield indent + _spread(value, indent, len(indent))
            case _:
                yield indent + ast.unparse(statement)


def _spread(node: ast.expr, indent: str, taken: int) -> str:
    """An expression that begins at the column ``taken``, one part a line where it does not fit in one."""
    flat = _flat(node)
    opening, parts, closing = _parts(node)
    if not parts or taken + len(flat) < WIDTH:
        return flat
    inner = indent + _INDENT
    lines = [f"{inner}{prefix}{_spread(part, inner, len(inner) + len(prefix))}," for prefix, part in parts]
    return "\n".join([opening, *lines, indent + closing])


def _flat(node: ast.expr) -> str:
    opening, parts, closing = _parts(node)
    comma = "," if isinstance(node, ast.Tuple) and len(parts) == 1 else ""
    if opening:
        return opening + ", ".join(prefix + _flat(part) for prefix, part in parts) + comma + closing
    match node:
        case ast.Attribute(value=value, attr=name):
            return f"{_flat(value)}.{name}"
        case ast.Constant(value=str(text)):
            return _string(text)
    return ast.unparse(node)


def _parts(node: ast.expr) -> tuple[str, list[tuple[str, ast.expr]], str]:
    """What stands round the parts of an expression, and the parts, each with its keyword."""
    match node:
        case ast.Call(func=function, args=arguments, keywords=keywords):
            named = [(f"{each.arg}=" if each.arg else "**", each.value) for each in keywords]
            return f"{_flat(function)}(", [*(("", each) for each in arguments), *named], ")"
        case ast.List(elts=elements):
            return "[", [("", each) for each in elements], "]"
        case ast.Tuple(elts=elements):
            return "(", [("", each) for each in elements], ")"
    return "", [], ""


def _string(text: str) -> str:
    """In double quotes, unless that would need more backslashes."""
    written = repr(f"'{text}\"")[1:-1]  # with both quotes in it, so that it is in single ones
    inside = written[2:-1]
    if text.count('"') > text.count("'"):
        return f"'{inside}'"
    return '"' + re.sub(r"\\(.)|\"", lambda at: {"'": "'", None: '\\"'}.get(at[1], at[0]), inside) + '"'


def _expression(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body
