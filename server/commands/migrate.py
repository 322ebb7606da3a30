"""The command that brings the schema to a revision, or to the newest ones."""

from __future__ import annotations

import argparse
import sys

from conf import Settings
from server.commands._backend import backend_of

SUMMARY = "bring the schema to the newest revisions, or check it against the code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=["check"],
        metavar="check",
        help="change nothing; exit 1 where code and schema differ",
    )
    parser.add_argument(
        "--to", metavar="REVISION", help="this revision, or the newest of a branch (kernel), not of all"
    )
    parser.add_argument("--sql", action="store_true", help="print the SQL, and connect to no database")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Migrate, check, or print the SQL.

    Raises:
        DatabaseError: the database cannot be reached, there is no such revision, … Nothing was changed.
        SettingsError: this database is not supported.
    """
    from db.schema import migrate

    if arguments.action == "check" and (arguments.to or arguments.sql):
        print("migrate check takes neither --to nor --sql", file=sys.stderr)
        return 2
    database = settings.database
    if arguments.sql:
        print(migrate.sql(database, arguments.to or "head").strip())
        return 0
    if backend_of(settings).shares_one_connection:
        print("the database is in memory: the process that serves it makes its schema, and takes it along")
        return 0
    if arguments.action == "check":
        return _check(settings)
    before = migrate.current(database)
    migrate.upgrade(database, arguments.to or "head")
    after = migrate.current(database)
    print(
        f"schema is already at {after}"
        if before == after
        else f"schema is at {after} (was {before or 'empty'})"
    )
    return 0


def _check(settings: Settings) -> int:
    from db.schema import migrate

    differences = migrate.drift(settings.database)
    for difference in differences:
        print(difference)
    if differences:
        return 1
    print(f"schema is at {migrate.head()}, as the code expects")
    return 0
