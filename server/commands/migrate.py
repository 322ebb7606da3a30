"""The command that brings the schema to a revision, writes revisions, and shows where the database is."""

from __future__ import annotations

import argparse
import sys

from conf import Settings
from server.commands._backend import backend_of

SUMMARY = "bring the schema to the newest revisions; check, write, list or stamp revisions"

_ACTIONS = {
    "check": "exit 1 where code and schema differ; changes nothing",
    "revision": "write the next revision of the application's tables",
    "history": "list all revisions, newest first; connects to no database",
    "current": "show where the database is",
    "stamp": "note that the database is at a revision, and run none",
}

_OPTIONS = {
    None: {"to", "sql"},
    "revision": {"message", "autogenerate", "branch"},
    "stamp": {"target"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=[*_ACTIONS],
        metavar="ACTION",
        help="; ".join(f"{action}: {about}" for action, about in _ACTIONS.items()),
    )
    parser.add_argument(
        "target", nargs="?", metavar="REVISION", help="of stamp: head, a branch or a revision"
    )
    parser.add_argument(
        "--to", metavar="REVISION", help="this revision, or the newest of a branch (kernel), not of all"
    )
    parser.add_argument("--sql", action="store_true", help="print the SQL, and connect to no database")
    parser.add_argument("-m", "--message", metavar="TEXT", help="of revision: what it does, in a few words")
    parser.add_argument(
        "--autogenerate",
        action="store_true",
        help="of revision: have it do what the code's tables have and the database has not",
    )
    parser.add_argument("--branch", metavar="LABEL", help="of revision: the branch, where there are several")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Migrate, print the SQL, or do what the action names.

    Returns:
        1 where ``check`` finds a difference; 2 for arguments that do not belong together.

    Raises:
        DatabaseError: the database cannot be reached, there is no such revision, … Nothing was changed.
        SettingsError: this database is not supported.
    """
    from db.schema import migrate

    action, database = arguments.action, settings.database
    fault = _fault(arguments)
    if fault is not None:
        print(fault, file=sys.stderr)
        return 2
    if arguments.sql:
        print(migrate.sql(database, arguments.to or "head").strip())
        return 0
    if action == "history":
        return _history(settings)
    in_memory = backend_of(settings).shares_one_connection
    if action == "revision":
        return _revision(settings, arguments)
    if in_memory:
        print("the database is in memory: the process that serves it makes its schema, and takes it along")
        return 0
    if action == "check":
        return _check(settings)
    if action == "current":
        return _current(settings)
    before = migrate.current(database)
    if action == "stamp":
        migrate.stamp(database, arguments.target)
    else:
        migrate.upgrade(database, arguments.to or "head")
    after = migrate.current(database)
    print(
        f"schema is already at {after}"
        if before == after
        else f"schema is at {after} (was {before or 'empty'})"
    )
    return 0


def _fault(arguments: argparse.Namespace) -> str | None:
    """What does not belong together."""
    action = arguments.action
    given = {name for group in _OPTIONS.values() for name in group if getattr(arguments, name)}
    surplus = sorted(given - _OPTIONS.get(action, set()))
    if surplus:
        shown = ", ".join("REVISION" if name == "target" else f"--{name}" for name in surplus)
        return f"migrate{f' {action}' if action else ''} takes no {shown}"
    if action == "revision" and not (arguments.message or "").strip():
        return "migrate revision needs a message: -m 'the goods'"
    if action == "stamp" and not arguments.target:
        return (
            "migrate stamp needs a revision: head, the label of a branch, or one that `migrate history` lists"
        )
    return None


def _check(settings: Settings) -> int:
    from db.schema import migrate

    differences = migrate.drift(settings.database)
    for difference in differences:
        print(difference)
    if differences:
        return 1
    models = settings.database.models
    print(f"schema is at {migrate.head(models)}, as the code expects")
    for branch in migrate.compared(models):
        number = len(branch.tables)
        print(f"  {branch.label}: {number} table{'' if number == 1 else 's'} of {', '.join(branch.modules)}")
    return 0


def _revision(settings: Settings, arguments: argparse.Namespace) -> int:
    from db.schema import migrate

    written = migrate.write_revision(
        settings.database, arguments.message, branch=arguments.branch, from_tables=arguments.autogenerate
    )
    if written is None:
        print(
            "the database has what the code's tables have: no revision is written. Tables that were made "
            "otherwise are compared with an empty database: --database-url names one"
        )
        return 0
    print(f"{written.path}: read it before it is run")
    for backend, reason in written.unfit.items():
        print(f"not for {backend}: {reason}", file=sys.stderr)
    return 0


def _history(settings: Settings) -> int:
    from db.schema import migrate

    for label, revisions in migrate.history(settings.database.models).items():
        print(label if revisions else f"{label}: no revision yet")
        for revision, about in revisions:
            print(f"  {revision}  {about.partition(chr(10))[0]}")
    return 0


def _current(settings: Settings) -> int:
    from db.schema import migrate

    for label, (at, newest) in migrate.positions(settings.database).items():
        behind = "" if at == newest else f", the newest is {newest}"
        print(f"{label}: {at or 'not there'}{behind}")
    return 0
