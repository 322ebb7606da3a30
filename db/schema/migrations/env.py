"""Alembic's entry: runs the revisions on the connection of `db.schema.migrate`, or writes their SQL."""

from __future__ import annotations

from alembic import context

from db.portable.types import make_tables_exact
from db.schema.guards import guards

options = context.config.attributes["options"]

if context.is_offline_mode():
    backend = context.config.attributes["backend"]
    context.configure(dialect_name=backend, literal_binds=True, **options)
    make_tables_exact(context.get_context().dialect)
    with context.begin_transaction():
        for statement in guards(backend):
            context.execute(statement)
        context.run_migrations()
else:
    # The transaction is the caller's, which began it with the guards and ends it.
    context.configure(connection=context.config.attributes["connection"], **options)
    make_tables_exact(context.get_context().dialect)
    context.run_migrations()
