"""The schema: what revision it is at, how it gets to another, and whether it is what the code expects.

Alembic's revisions in `db.schema.migrations` are the only maker of the schema. They go forward only; the way
back is a backup, since no revision can give back what a later one took away.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from alembic import autogenerate, command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, Connection, inspect
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from db.backend import Role
from db.backends.choose import backend_for
from db.base import Base
from db.engines.engine import blocking, make_engine, make_url
from db.errors import Cancelled, SchemaError
from db.schema.guards import guarded
from db.schema.migrations.options import OPTIONS
from db.schema.state import WAY_OUT as WAY_OUT


def upgrade(settings: DatabaseSettings, to: str = "head") -> None:
    """Bring the schema to a revision: all of the way in one transaction, or not at all.

    Two that migrate at once go one after the other, and the second finds nothing left to do.

    Args:
        to: a revision, or "head".

    Raises:
        SchemaError: no such revision, the schema is past it, it is newer than this code, or a
            statement took longer than `db.schema.guards` allows.
        DatabaseError: the database cannot be reached, a lock was not to be had in time, or it refuses
            what a revision wants.
        Nothing was changed after any of them.
    """
    try:
        with _connection(settings, "migration") as connection:
            upgrade_on(connection, to)
    except Cancelled as error:
        raise SchemaError("a statement ran into the time limit of migrations; nothing was changed") from error


def upgrade_on(connection: Connection, to: str = "head") -> None:
    """`upgrade` on a connection of the caller's, who commits or rolls back.

    For a database that lives in one connection: an in-memory SQLite.
    """
    revision = _resolve(to)
    with guarded(connection):
        _require_way(_revision_of(connection), revision)
        command.upgrade(_config(connection=connection), revision)


def current(settings: DatabaseSettings) -> str | None:
    """The revision the database is at; None where it has no schema yet."""
    with _connection(settings, "reader") as connection:
        return _revision_of(connection)


def current_on(connection: Connection) -> str | None:
    """`current` on a connection of the caller's."""
    return _revision_of(connection)


def head() -> str:
    """The newest revision that this code knows."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise SchemaError("this installation has no migrations: is db/schema/migrations/versions part of it?")
    return revision


def drift(settings: DatabaseSettings) -> list[str]:
    """What the database's schema and the code's tables differ in, a sentence each; empty where nothing."""
    with _connection(settings, "reader") as connection:
        return drift_on(connection)


def drift_on(connection: Connection) -> list[str]:
    """`drift` on a connection of the caller's."""
    at = _revision_of(connection)
    sentences = []
    if at != head():
        found = f"schema is at {at}" if at else "there is no schema"
        sentences.append(f"{found}, the code expects {head()}: {WAY_OUT}")
    context = MigrationContext.configure(connection, opts=OPTIONS)
    differences = autogenerate.compare_metadata(context, OPTIONS["target_metadata"])
    sentences += [_sentence(difference) for difference in differences]
    return sentences + list(_checks_that_differ(connection))


def draft(settings: DatabaseSettings, message: str, *, folder: Path | None = None) -> Path:
    """Write a revision with what `drift` finds, to be read and completed by whoever asked for it.

    Args:
        settings: a database whose schema is at `head`.
        message: what the revision does, in a few words; they make its name.
        folder: where the revisions are, if not in this package.

    Returns:
        The new file.
    """
    with _connection(settings, "writer") as connection:
        script = command.revision(
            _config(connection=connection),
            message,
            autogenerate=True,
            rev_id=f"{int(head()) + 1:04}",
            version_path=folder,
        )
    return Path(cast(Script, script).path)


def sql(settings: DatabaseSettings, to: str = "head") -> str:
    """The SQL that makes the schema from nothing, for somebody else to run. Connects to no database."""
    config = _config(backend=make_url(settings).get_backend_name())
    config.output_buffer = io.StringIO()
    command.upgrade(config, _resolve(to), sql=True)
    return config.output_buffer.getvalue()


@contextmanager
def _connection(settings: DatabaseSettings, role: Role) -> Iterator[Connection]:
    """A connection of our own in a transaction, which is kept unless something is raised."""
    settings = blocking(settings)
    dialect = backend_for(make_url(settings), settings.pooler)
    engine = make_engine(settings, role, dialect)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise dialect.translate(error) from error
    finally:
        engine.dispose()


def _config(**attributes: object) -> Config:
    """Alembic's configuration, made here: there is no alembic.ini to be found, or lost."""
    config = Config(attributes=attributes)
    config.set_main_option("script_location", "db.schema:migrations")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision_of(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _resolve(to: str) -> str:
    """The full name of a revision."""
    scripts = _scripts()
    try:
        script = scripts.get_revision(to) if to else None
    except CommandError:
        script = None
    if script is None:
        known = ", ".join(reversed([each.revision for each in scripts.walk_revisions()]))
        raise SchemaError(f"there is no revision {to!r}: choose head or one of {known}")
    return script.revision


def _require_way(at: str | None, to: str) -> None:
    """See to it that the way from ``at`` to ``to`` leads forward."""
    if at is None:
        return
    scripts = _scripts()
    try:
        ahead = {script.revision for script in scripts.walk_revisions(base=at)}
    except CommandError:
        raise SchemaError(
            f"the schema is at {at}, which this code does not know (its newest is {head()}): "
            "a newer release made it, run that one"
        ) from None
    if to not in ahead:
        raise SchemaError(f"the schema is at {at}, which comes after {to}: migrations go forward only")


def _checks_that_differ(connection: Connection) -> Iterator[str]:
    """Alembic compares no CHECK constraints. Their names are ours; their text each database rewrites."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name not in there:
            continue
        expected = {str(each.name) for each in table.constraints if isinstance(each, CheckConstraint)}
        found = {str(each["name"]) for each in inspector.get_check_constraints(table.name)}
        yield from (f"check {table.name}.{name} is in the code only" for name in sorted(expected - found))
        yield from (f"check {table.name}.{name} is in the database only" for name in sorted(found - expected))


def _sentence(difference: Any) -> str:
    """One of Alembic's differences in words: "add" for what the database lacks, "remove" for the rest."""
    if isinstance(difference, list):  # what differs in one column
        return "; ".join(map(_sentence, difference))
    operation, *what = difference
    verb, _, kind = operation.partition("_")
    if verb == "modify":
        _, table, column, _, there, expected = what
        return f"{kind} of {table}.{column} is {there!r} in the database, {expected!r} in the code"
    subject = what[-1]
    table = what[-2] if kind == "column" else getattr(getattr(subject, "table", None), "name", None)
    name = f"{table}.{subject.name}" if table else subject.name
    return f"{kind} {name} is in the {'code' if verb == 'add' else 'database'} only"
