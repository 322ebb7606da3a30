"""The schema: what revisions it is at, how it gets to others, and whether it is what the code expects.

Alembic's revisions are the only maker of the schema, in branches: the kernel's, and the application's
(`db.schema.branches`). They go forward only; the way back is a backup, since no revision can give back what a
later one took away.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alembic import command, op
from alembic.migration import MigrationContext
from alembic.util import rev_id
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import CompileError

from conf import DatabaseSettings
from conf.database import VERSION_TABLE
from conf.program import COMMAND, PREFIX
from db.backends.choose import backend_for
from db.engines.engine import make_url
from db.errors import SchemaError
from db.portable.types import make_tables_exact
from db.schema.autogenerate import NOTHING, Statements, differences, statements
from db.schema.branches import KERNEL, Branch
from db.schema.connections import connected, migration
from db.schema.guards import guarded
from db.schema.migrations.options import to_compare, to_migrate
from db.schema.revisions import Revisions, following
from db.schema.source import revision_text
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
    with migration(settings) as connection:
        upgrade_on(connection, to, version_table=settings.version_table, models=settings.models)


def upgrade_on(
    connection: Connection,
    to: str = "head",
    *,
    version_table: str = VERSION_TABLE,
    models: Sequence[str] = (),
) -> None:
    """`upgrade` on a connection of the caller's, which commits or rolls back.

    For a database that lives in one connection: an in-memory SQLite.
    """
    revisions = Revisions(models)
    revision = revisions.resolve(to)
    with guarded(connection):
        _require_ours(connection, version_table, models)
        _require_way(revisions, _revisions_on(connection, version_table), revision)
        config = revisions.config(connection=connection, options=to_migrate(version_table))
        command.upgrade(config, revision)


def make_kernel_tables(to: str = KERNEL, *, after: str | None = None) -> None:
    """Run the kernel's revisions inside of a revision of an application's own Alembic.

    Writes SQL where that Alembic does (``--sql``). The version table is not written: see `stamp`.

    Args:
        to: the last revision to run; a revision of one's own names it, so that it does the same at any time.
        after: the last that an earlier revision of one's own has run; None for none.

    Raises:
        SchemaError: there is no such revision. Nothing was changed.
    """
    revisions = Revisions()
    line = revisions.line(revisions.branches[KERNEL])
    names = [script.revision for script in line]
    begin = 0 if after is None else names.index(revisions.resolve(after)) + 1
    end = names.index(revisions.resolve(to)) + 1
    dialect = op.get_context().dialect
    compiler = dialect.ddl_compiler
    make_tables_exact(dialect)  # for these tables alone: the dialect is the application's
    try:
        for script in line[begin:end]:
            script.module.upgrade()
    finally:
        dialect.ddl_compiler = compiler


def stamp(settings: DatabaseSettings, to: str) -> None:
    """Note that the schema is at a revision, which its tables were made for otherwise. Runs none.

    Args:
        to: as of `upgrade`.

    Raises:
        SchemaError: no such revision; the database's revisions are another application's; of a branch that
            it names no table is there. Nothing was changed.
        DatabaseError: as of `upgrade`.
    """
    revisions = Revisions(settings.models)
    revision = revisions.resolve(to)
    with migration(settings) as connection, guarded(connection):
        _require_ours(connection, settings.version_table, settings.models)
        named = [head.revision for head in revisions.scripts.get_revisions(revision)]
        absent = _absent(connection, revisions, revisions.labels(named))
        if absent:
            raise SchemaError(
                f"no table of {', '.join(absent)} is there: `{COMMAND} migrate --to {absent[0]}` makes them"
            )
        context = MigrationContext.configure(connection, opts={"version_table": settings.version_table})
        context.stamp(revisions.scripts, revision)


def current(settings: DatabaseSettings) -> str | None:
    """The revisions the database is at, as one text; None where it has no schema yet."""
    with connected(settings, "reader") as connection:
        return current_on(connection, version_table=settings.version_table)


def current_on(connection: Connection, *, version_table: str = VERSION_TABLE) -> str | None:
    """`current` on a connection of the caller's."""
    return joined(_revisions_on(connection, version_table))


def positions(settings: DatabaseSettings) -> dict[str, tuple[str | None, str | None]]:
    """For each branch the revision that the database is at, and the newest; None where there is none.

    Raises:
        SchemaError: the database's revisions are another application's, or a newer release's.
    """
    revisions = Revisions(settings.models)
    with connected(settings, "reader") as connection:
        _require_ours(connection, settings.version_table, settings.models)
        applied = {
            each.revision for each in revisions.applied(_revisions_on(connection, settings.version_table))
        }
    found = {}
    for label, branch in revisions.branches.items():
        line = [script.revision for script in revisions.line(branch)]
        done = [revision for revision in line if revision in applied]
        found[label] = (done[-1] if done else None, line[-1] if line else None)
    return found


def history(models: Sequence[str] = ()) -> dict[str, list[tuple[str, str]]]:
    """For each branch its revisions, newest first, each with what it does. Connects to no database."""
    revisions = Revisions(models)
    return {
        label: [(script.revision, script.doc) for script in reversed(revisions.line(branch))]
        for label, branch in revisions.branches.items()
    }


def head(models: Sequence[str] = ()) -> str:
    """The newest revisions that this code knows, as `current` shows them where the database is at them.

    One for each branch, except for one that another's revision depends on: the database has that one implied.
    """
    return Revisions(models).head


def known(models: Sequence[str] = ()) -> frozenset[str]:
    """Every revision that this code knows."""
    return Revisions(models).known


class Unknown(NamedTuple):
    """Why the revisions of a database are not this code's."""

    told: str
    fix: str


def unknown_on(
    connection: Connection, *, version_table: str = VERSION_TABLE, models: Sequence[str] = ()
) -> Unknown | None:
    """Whether the version table holds what is not this code's; None where it does not, or is empty.

    Another application's revisions may have the names of ours: they are ours where a table of their branches
    is there.
    """
    revisions = Revisions(models)
    at = _revisions_on(connection, version_table)
    is_known = revisions.known.issuperset(at)
    labels = revisions.labels(at) if is_known else {KERNEL}  # whose tables a newer release has in any case
    if at and len(_absent(connection, revisions, labels)) == len(labels):
        fix = (
            f"{version_table} is another application's: set database.version_table to the name of a table "
            "for ours, onfinish_version for one"
        )
        return Unknown(f"is at {joined(at)}, but no table of that revision is there", fix)
    if not is_known:
        told = f"is at {joined(at)}, which this code does not know (its newest is {revisions.head})"
        fix = "a newer release, or one with more branches, made it: run that one"
        if not models:
            fix += ", or name its modules in database.models"
        return Unknown(told, fix)
    return None


def drift(settings: DatabaseSettings) -> list[str]:
    """What the database's schema and the code's tables differ in, a sentence each; empty where nothing."""
    with connected(settings, "reader") as connection:
        return drift_on(connection, version_table=settings.version_table, models=settings.models)


def drift_on(
    connection: Connection, *, version_table: str = VERSION_TABLE, models: Sequence[str] = ()
) -> list[str]:
    """`drift` on a connection of the caller's."""
    revisions = Revisions(models)
    at, expected = current_on(connection, version_table=version_table), revisions.head
    unknown = unknown_on(connection, version_table=version_table, models=models)
    sentences = []
    if at != expected or unknown is not None:
        found = f"schema is at {at}" if at else "there is no schema"
        sentences.append(f"{found}, the code expects {expected}: {unknown.fix if unknown else WAY_OUT}")
    options = to_compare(version_table, revisions.branches, revisions.branches.values())
    return sentences + differences(connection, options)


def compared(models: Sequence[str] = ()) -> list[Branch]:
    """The branches whose tables `drift` compares, each with the modules that it takes them from."""
    return [*Revisions(models).branches.values()]


class Written(NamedTuple):
    """A revision that was written, and the databases for which no SQL can be made of it, with the reason."""

    path: Path
    unfit: dict[str, str]


def write_revision(
    settings: DatabaseSettings, message: str, *, branch: str | None = None, from_tables: bool = False
) -> Written | None:
    """Write a branch's next revision, to be read and completed. Changes no database.

    Args:
        settings: with ``from_tables`` a database that is at the branch's newest revision, or in memory.
        message: what the revision does, in a few words; they make its name.
        branch: the label; None for the only one besides the kernel's, or the kernel's alone.
        from_tables: it does what the tables of the branch have and the database has not; None is returned
            where nothing differs, and else it does nothing yet.

    Raises:
        SchemaError: there is no such branch, or it is onfinish's own in an installation; the database is not
            at its newest revision. Nothing was written.
        DatabaseError: as of `drift`.
    """
    revisions = Revisions(settings.models)
    chosen = revisions.branch(branch)
    if PREFIX and f"{chosen.names[0]}.".startswith(PREFIX):
        raise SchemaError(
            f"the branch {chosen.label} is a part of the installation: name the modules that have the "
            "application's tables by database.models (--database-models shop.models)"
        )
    newest = revisions.newest(chosen)
    does: Statements | None = NOTHING
    if from_tables:
        does = _statements(settings, revisions, chosen, newest.revision if newest else None)
    if does is None:
        return None
    revision = following(chosen, newest) or rev_id()
    variables = {
        "revision": revision,
        "down_revision": newest.revision if newest else None,
        "branch_labels": None if newest else (chosen.label,),
        "depends_on": None,
    }
    words = re.sub(r"\W+", "_", message.lower()).strip("_")[:40]
    text = revision_text(message, variables, does.body, does.imports)
    if not chosen.folder.exists():
        chosen.folder.mkdir()
        (chosen.folder / "__init__.py").write_text(f'"""The revisions of {chosen.names[0]}."""\n')
    path = chosen.folder / f"{revision}_{words}.py"
    path.write_text(text, encoding="utf-8")
    return Written(path, dict(_unfit(settings, newest.revision if newest else "base", revision)))


def sql(settings: DatabaseSettings, to: str = "head") -> str:
    """The SQL that makes the schema from nothing, to be run by other means. Connects to no database."""
    backend = make_url(settings).get_backend_name()
    return _sql(settings, backend, Revisions(settings.models).resolve(to))


def _sql(settings: DatabaseSettings, backend: str, way: str) -> str:
    config = Revisions(settings.models).config(backend=backend, options=to_migrate(settings.version_table))
    config.output_buffer = output = io.StringIO()
    command.upgrade(config, way, sql=True)
    return output.getvalue()


def _unfit(settings: DatabaseSettings, before: str, revision: str) -> Iterator[tuple[str, str]]:
    """Which databases have no SQL for a revision. SQLite is not asked: it rebuilds tables that it reads."""
    for backend in ("postgresql", "mysql", "mariadb"):
        try:
            _sql(settings, backend, f"{before}:{revision}")
        except CompileError as error:
            yield backend, str(error)


def _statements(
    settings: DatabaseSettings, revisions: Revisions, branch: Branch, newest: str | None
) -> Statements | None:
    url = make_url(settings)
    in_memory = backend_for(url, settings.pooler).shares_one_connection
    with connected(settings, "migration" if in_memory else "reader") as connection:
        if in_memory and newest is not None:
            upgrade_on(connection, branch.label, version_table=settings.version_table, models=settings.models)
        _require_ours(connection, settings.version_table, settings.models)
        at = _revisions_on(connection, settings.version_table)
        if newest is not None and newest not in {script.revision for script in revisions.applied(at)}:
            raise SchemaError(
                f"the schema is at {joined(at)}, and the next revision comes after {newest}: {WAY_OUT}"
            )
        options = to_compare(settings.version_table, revisions.branches, [branch])
        return statements(connection, options, branch.modules.values())


def _revisions_on(connection: Connection, version_table: str) -> tuple[str, ...]:
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    return context.get_current_heads()


def _absent(connection: Connection, revisions: Revisions, labels: Collection[str]) -> list[str]:
    """The branches of which no table is there."""
    inspector = inspect(connection)
    return [
        label
        for label in sorted(labels)
        if not any(
            inspector.has_table(table.name, table.schema) for table in revisions.branches[label].tables
        )
    ]


def _require_ours(connection: Connection, version_table: str, models: Sequence[str]) -> None:
    unknown = unknown_on(connection, version_table=version_table, models=models)
    if unknown is not None:
        raise SchemaError(f"the schema {unknown.told}: {unknown.fix}")


def _require_way(revisions: Revisions, at: Collection[str], to: str) -> None:
    """See to it that the way from ``at`` to ``to`` leads forward."""
    if to == "heads" or to in at:
        return
    behind = {script.revision: script for script in revisions.applied(at)}
    if to in behind and behind[to].nextrev:
        found = joined(at)
        raise SchemaError(f"the schema is at {found}, which comes after {to}: migrations go forward only")
