"""SQL expressions as text, for revisions that are written on one database and run on all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import ClauseElement, ColumnElement, Dialect, make_url, text
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

# Without a driver's paramstyle, where a % would be two.
_DIALECTS: Mapping[str, Dialect] = {
    name: cast(Any, make_url(f"{name}://").get_dialect())(paramstyle="named")
    for name in ("postgresql", "sqlite", "mysql+pymysql", "mariadb+pymysql")
}


class spelled(ColumnElement[Any]):  # named as SQLAlchemy names SQL functions
    """An expression whose text differs by database: ``spelled("length(name)", mysql="char_length(name)")``.

    In a revision it is what a model's expression was when the revision was written.

    Args:
        text: for the databases that are not named.
        by_database: for others, by SQLAlchemy's name of the dialect.
    """

    inherit_cache = False

    def __init__(self, text: str, **by_database: str) -> None:
        self.text = text
        self.by_database = by_database


@compiles(spelled)
def _spelled(element: spelled, compiler: SQLCompiler, **options: Any) -> str:
    spelling = element.by_database.get(compiler.dialect.name, element.text)
    return compiler.process(text(without_binds(spelling)), **options)


def without_binds(spelling: str) -> str:
    """SQL for `sqlalchemy.text`, in which a colon would begin a parameter."""
    return spelling.replace("\\", "\\\\").replace(":", "\\:") if ":" in spelling else spelling


def spellings(element: ClauseElement | TypeEngine[Any]) -> dict[str, str]:
    """The text of an expression in DDL, or of a type, by dialect. A dialect that has none is left out."""
    found = {}
    for dialect in _DIALECTS.values():
        try:
            if isinstance(element, TypeEngine):
                found[dialect.name] = element.compile(dialect)
            else:
                options = {"literal_binds": True, "include_table": False}
                found[dialect.name] = str(element.compile(dialect=dialect, compile_kwargs=options))
        except CompileError:
            continue
    return found
