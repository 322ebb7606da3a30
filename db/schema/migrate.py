"""The schema: what revisions it is at, how it gets to others, and whether it is what the code expects.

Alembic's revisions are the only maker of the schema, in branches: the kernel's, and those of the packages
with tables beside it (`db.schema.branches`). They go forward only; the way back is a backup, since no
revision can give back what a later one took away.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from alembic import autogenerate, command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, Connection, MetaData, inspect
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from conf.database import VERSION_TABLE
from db.backend import Role
from db.backends.choose import backend_for
from db.engines.engine import blocking, make_engine, make_url
from db.errors import Cancelled, SchemaError
from db.schema.branches import KERNEL, Branch, branches
from db.schema.guards import guarded
from db.schema.migrations.options import to_compare, to_migrate
from db.schema.state import WAY_OUT as WAY_OUT, joined


def upgrade(settings: DatabaseSettings, to: str = "head") -> None:
    """Bring the schema to a revision: all of the way in one transaction, or not at all.

    Two that migrate at once go one after the other, and the second finds nothing left to do.

    Args:
        to: "head", the newest of every branch; a branch's label, the newest of that one ("kernel": the commit
            markers and idempotency keys, for an application that makes its own tables otherwise); or a
            revision. What a revision depends on comes along.

    Raises:
        SchemaError: no such revision, the schema is past it, it is newer than this code or another
            application's, or a statement took longer than `db.schema.guards` allows.
        DatabaseError: the database cannot be reached, a lock could not be acquired in time, or it refuses
            what a revision wants.
        Nothing was changed after any of them.
    """
    try:
        with _connection(settings, "migration") as connection:
            upgrade_on(connection, to, version_table=settings.version_table)
    except Cancelled as error:
        raise SchemaError("a statement ran into the time limit of migrations; nothing was changed") from error


def upgrade_on(connection: Connection, to: str = "head", *, version_table: str = VERSION_TABLE) -> None:
    """`upgrade` on a connection of the caller's, which commits or rolls back.

    For a database that lives in one connection: an in-memory SQLite.
    """
    revision = _resolve(to)
    with guarded(connection):
        unknown = unknown_on(connection, version_table=version_table)
        if unknown is not None:
            raise SchemaError(f"the schema {unknown.told}: {unknown.fix}")
        _require_way(_revisions_on(connection, version_table), revision)
        command.upgrade(_config(connection=connection, options=to_migrate(version_table)), revision)


def current(settings: DatabaseSettings) -> str | None:
    """The revisions the database is at, as one text; None where it has no schema yet."""
    with _connection(settings, "reader") as connection:
        return current_on(connection, version_table=settings.version_table)


def current_on(connection: Connection, *, version_table: str = VERSION_TABLE) -> str | None:
    """`current` on a connection of the caller's."""
    return joined(_revisions_on(connection, version_table))


def head() -> str:
    """The newest revisions that this code knows, as `current` shows them where the database is at them.

    One for each branch, except for one that another's revision depends on: the database has that one implied.
    """
    newest = joined(script.revision for script in _scripts().get_revisions("heads"))
    if newest is None:
        folders = ", ".join(str(branch.folder) for branch in branches().values())
        raise SchemaError(f"this installation has no migrations: is {folders} part of it?")
    return newest


def known() -> frozenset[str]:
    """Every revision that this code knows."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


class Unknown(NamedTuple):
    """Why the revisions of a database are not this code's."""

    told: str
    fix: str


def unknown_on(connection: Connection, *, version_table: str = VERSION_TABLE) -> Unknown | None:
    """Whether the version table holds what is not this code's; None where it does not, or is empty.

    Another application's revisions may have the names of ours: a revision is ours where a table of its branch
    is there.
    """
    at = _revisions_on(connection, version_table)
    is_known = known().issuperset(at)
    labels = _labels(at) if is_known else {KERNEL}  # whose tables a newer release has in any case
    inspector = inspect(connection)
    metadata = [branches()[label].metadata for label in labels]
    if not all(any(map(inspector.has_table, each.tables)) for each in metadata):
        fix = (
            f"{version_table} is another application's: set database.version_table to the name of a table "
            "for ours, onfinish_version for one"
        )
        return Unknown(f"is at {joined(at)}, but no table of that revision is there", fix)
    if not is_known:
        told = f"is at {joined(at)}, which this code does not know (its newest is {head()})"
        return Unknown(told, "a newer release, or one with more branches, made it: run that one")
    return None


def drift(settings: DatabaseSettings) -> list[str]:
    """What the database's schema and the code's tables differ in, a sentence each; empty where nothing."""
    with _connection(settings, "reader") as connection:
        return drift_on(connection, version_table=settings.version_table)


def drift_on(connection: Connection, *, version_table: str = VERSION_TABLE) -> list[str]:
    """`drift` on a connection of the caller's."""
    at = current_on(connection, version_table=version_table)
    sentences = []
    if at != head():
        unknown = unknown_on(connection, version_table=version_table)
        found = f"schema is at {at}" if at else "there is no schema"
        sentences.append(f"{found}, the code expects {head()}: {unknown.fix if unknown else WAY_OUT}")
    options = to_compare(version_table, branches().values())
    context = MigrationContext.configure(connection, opts=options)
    differences = autogenerate.compare_metadata(context, options["target_metadata"])
    sentences += [_sentence(difference) for difference in differences]
    return sentences + list(_checks_that_differ(connection, options["target_metadata"]))


def draft(
    settings: DatabaseSettings, message: str, *, branch: str | None = None, folder: Path | None = None
) -> Path:
    """Write a revision with what `drift` finds in the tables of a branch, to be read and completed.

    Args:
        settings: a database whose schema is at `head`.
        message: what the revision does, in a few words; they make its name.
        branch: the label; None where there is one besides the kernel's, or the kernel's alone.
        folder: where the revisions are, if not in the branch's package.

    Returns:
        The new file.

    Raises:
        SchemaError: there is no such branch.
    """
    chosen = _branch(branch)
    newest = _newest(chosen)
    with _connection(settings, "writer") as connection:
        options = to_compare(settings.version_table, [chosen])
        script = command.revision(
            _config(connection=connection, options=options),
            message,
            autogenerate=True,
            head=newest.revision if newest else "base",
            branch_label=None if newest else chosen.label,
            rev_id=_following(newest.revision) if newest else f"{chosen.label}_0001",
            version_path=folder or chosen.folder,
        )
    return Path(cast(Script, script).path)


def sql(settings: DatabaseSettings, to: str = "head") -> str:
    """The SQL that makes the schema from nothing, to be run by other means. Connects to no database."""
    backend = make_url(settings).get_backend_name()
    config = _config(backend=backend, options=to_migrate(settings.version_table))
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
    config.set_main_option("script_location", f"{__name__.rpartition('.')[0]}:migrations")
    folders = "\n".join(str(branch.folder) for branch in branches().values())
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", folders.replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revisions_on(connection: Connection, version_table: str) -> tuple[str, ...]:
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    return context.get_current_heads()


def _branch(label: str | None) -> Branch:
    if label is None:
        others = [branch for branch in branches().values() if branch.label != KERNEL]
        if len(others) < 2:
            return others[0] if others else branches()[KERNEL]
    elif label in branches():
        return branches()[label]
    raise SchemaError(f"there is no branch {label!r}: choose one of {', '.join(branches())}")


def _newest(branch: Branch) -> Script | None:
    """The newest revision of a branch; None where it has none yet."""
    try:
        return _scripts().get_revision(f"{branch.label}@head")
    except CommandError:
        return None


def _following(revision: str) -> str | None:
    """The name with the next number; None, for one of Alembic's own making, where it ends with none."""
    following = re.sub(r"\d+$", lambda number: f"{int(number[0]) + 1:0{len(number[0])}}", revision)
    return following if following != revision else None


def _resolve(to: str) -> str:
    """The full name of a revision, or Alembic's word for all that are newest."""
    if to == "head":
        return "heads"
    try:
        script = _newest(branches()[to]) if to in branches() else _scripts().get_revision(to) if to else None
    except CommandError:
        script = None
    if script is None:
        choices = ", ".join([*branches(), *sorted(known())])
        raise SchemaError(f"there is no revision {to!r}: choose head or one of {choices}")
    return script.revision


def _applied(at: Iterable[str]) -> Iterator[Script]:
    """Revisions and all that they came after, or depend on."""
    scripts = _scripts()
    for revision in at:  # one at a time: Alembic refuses revisions of which one implies the other
        yield from scripts.iterate_revisions(revision, "base")


def _labels(at: Iterable[str]) -> set[str]:
    """The branches whose tables a database at these revisions has."""
    return {label for script in _applied(at) for label in script.branch_labels} & branches().keys()


def _require_way(at: Collection[str], to: str) -> None:
    """See to it that the way from ``at`` to ``to`` leads forward."""
    if to == "heads" or to in at:
        return
    behind = {script.revision: script for script in _applied(at)}
    if to in behind and behind[to].nextrev:
        found = joined(at)
        raise SchemaError(f"the schema is at {found}, which comes after {to}: migrations go forward only")


def _checks_that_differ(connection: Connection, metadata: Iterable[MetaData]) -> Iterator[str]:
    """Alembic compares no CHECK constraints. Their names are ours; their text each database rewrites."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in (table for each in metadata for table in each.sorted_tables):
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
