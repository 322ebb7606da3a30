"""The command that adds a member."""

import argparse
import sys

from conf import Settings

SUMMARY = "add a member, whose password is read from standard input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    from db import Database
    from tests.examples.library.db.members import create_member

    database = Database(settings.database)
    try:
        with database.session_scope() as session:
            create_member(session, name=arguments.name, password=sys.stdin.readline().strip())
    finally:
        database.dispose()
    return 0
