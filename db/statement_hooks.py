"""The statements of units of work, on their way to the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, ExecutionContext

from db.guard import OPTION, StatementGuard

Before = Callable[[StatementGuard, ExecutionContext, str], None]
After = Callable[[StatementGuard, ExecutionContext], None]

counters: list[Callable[[str], object]] = []
"""Called with each statement that a unit of work sends, where it is counted: in its thread or greenlet. For
tests; empty in a server."""


def hook_statements(engine: Engine, *, before: Before | None = None, after: After | None = None) -> None:
    """Call hooks around every statement that a unit of work executes. Other statements are unaffected.

    Args:
        engine: a new one; what is asked for later stands round what was asked for before.
        before: called with the SQL, before it is sent. What it raises is raised in its place.
        after: called when the driver has done it.
    """
    dialect = engine.dialect

    def guarded(do: Callable[..., None]) -> Callable[..., None]:
        def do_guarded(cursor: Any, statement: str, *arguments: Any) -> None:
            context = arguments[-1]
            guard = None if context is None else context.execution_options.get(OPTION)
            if guard is None:
                do(cursor, statement, *arguments)
                return
            if before is not None:
                before(guard, context, statement)
            do(cursor, statement, *arguments)
            if after is not None:
                after(guard, context)

        return do_guarded

    dialect.do_execute = guarded(dialect.do_execute)  # type: ignore[method-assign]
    dialect.do_executemany = guarded(dialect.do_executemany)  # type: ignore[method-assign]
    dialect.do_execute_no_params = guarded(dialect.do_execute_no_params)  # type: ignore[method-assign]
