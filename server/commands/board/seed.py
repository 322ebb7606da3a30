"""The command that fills the board with a sample."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from conf import Fault, Settings, SettingsError
from conf.settings import DEFAULT_URL
from server.commands._backend import backend_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db import Database
    from db.board.sample import Chunk

A = TypeVar("A")
R = TypeVar("R")

SUMMARY = "add example teams and tasks, so that the first look is not empty"

TASKS, TEAMS = 200, 8
TASKS_MAX, TEAMS_MAX = 100_000_000, 1_000

_CHUNKS_A_BATCH = 5
"""Each transaction holds its locks for a fraction of a second. Larger ones were not faster."""

_PAUSE_S = 0.03
"""Between two transactions on SQLite, whose writers poll for the lock: a server beside us gets its turn."""

_ATTEMPTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", type=_count(TASKS_MAX), default=TASKS, metavar="N", help=f"tasks in all ({TASKS})"
    )
    parser.add_argument(
        "--teams", type=_count(TEAMS_MAX), default=TEAMS, metavar="N", help=f"teams in all ({TEAMS})"
    )
    parser.add_argument(
        "--random-seed", type=int, default=0, metavar="N", help="another number makes other tasks (0)"
    )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Add what is not there yet. Run twice, it adds nothing the second time; interrupted, it goes on.

    Every batch is a transaction of its own. A server may run on the same database meanwhile.

    Raises:
        SettingsError: the database is in memory, and its rows would end with this command.
        DatabaseError: the database cannot be reached, … What was counted as added stays.
    """
    from db import Database
    from db.errors import SchemaError
    from db.schema import migrate

    dialect = backend_of(settings)
    if dialect.shares_one_connection:
        fault = f"in memory, it ends with this command: give a file, --database-url {DEFAULT_URL}"
        raise SettingsError([Fault("database.url", settings.origin_of("database.url"), fault)])
    if dialect.belongs_to_process:
        migrate.upgrade(settings.database)
    else:
        at, expected = migrate.current(settings.database), migrate.head(settings.database.models)
        if at != expected:
            found = f"the schema is at {at}" if at else "there is no schema"
            raise SchemaError(f"{found}, the code expects {expected}: {migrate.WAY_OUT}")
    database = Database(settings.database)
    try:
        return _seed(database, arguments, where=settings.database.shown_url)
    finally:
        database.dispose()


def _seed(database: Database, arguments: argparse.Namespace, *, where: str) -> int:
    from tqdm import tqdm

    from db.board import sample

    began = time.monotonic()
    team_ids, new_teams = _in_transaction(database, _add_teams, sample.team_names(arguments.teams))
    chunks = sample.chunks(arguments.tasks, team_ids=team_ids, random_seed=arguments.random_seed)
    tasks = transfers = 0
    # Silent without a terminal, and where it is over before it could be read.
    with tqdm(
        total=arguments.tasks, unit=" tasks", unit_scale=True, disable=None, delay=0.5, leave=False
    ) as bar:
        try:
            for batch in _batches(chunks):
                added, moved = _in_transaction(database, _add_chunks, batch)
                tasks, transfers = tasks + added, transfers + moved
                bar.update(sum(len(chunk.tasks) for chunk in batch))
                if database.backend.belongs_to_process:
                    time.sleep(_PAUSE_S)
        except KeyboardInterrupt:
            bar.close()
            print(f"interrupted: {tasks:,} tasks were added; run it again to go on", file=sys.stderr)
            raise
    if not (new_teams or tasks):
        print(f"nothing to add: {_said(len(team_ids), arguments.tasks)} are in {where} already")
        return 0
    print(f"added {_said(new_teams, tasks, transfers)} in {time.monotonic() - began:.1f} s to {where}")
    print(f"look at one: /tasks/{sample.FIRST_TASK['id']}")
    return 0


def _in_transaction(database: Database, function: Callable[[Session, A], R], argument: A) -> R:
    from db.errors import Conflict

    # A conflict: another process adds the same teams at the same time.
    return database.run_in_transaction(
        function, argument, attempts=_ATTEMPTS, retry_on=(Conflict,), label="seed"
    )


def _add_teams(session: Session, names: Sequence[str]) -> tuple[list[int], int]:
    """See to it that there are teams of these names; returns their ids, and how many are new."""
    from db.board import teams

    known = {team.name: team.id for team in teams.list_teams(session)}
    added = {name: teams.create_team(session, name=name).id for name in names if name not in known}
    return [added.get(name) or known[name] for name in names], len(added)


def _add_chunks(session: Session, batch: Sequence[Chunk]) -> tuple[int, int]:
    """Add the tasks that are not there, and their log; returns how many of both."""
    from sqlalchemy import insert

    from db.board.tasks import Task
    from db.board.transfers import Transfer
    from db.portable.loading import insert_missing

    added = insert_missing(session, Task, [task for chunk in batch for task in chunk.tasks])
    log = [row for chunk in batch for row in chunk.transfers if row["task_id"] in added]
    if log:
        session.execute(insert(Transfer), log)
    return len(added), len(log)


def _batches(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    while batch := list(islice(chunks, _CHUNKS_A_BATCH)):
        yield batch


def _said(teams: int, tasks: int, transfers: int = 0) -> str:
    counts = {"team": teams, "task": tasks, "transfer": transfers}
    parts = [_counted(number, what) for what, number in counts.items() if number]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "no tasks"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _count(largest: int) -> Callable[[str], int]:
    """A number of an argument, read and checked."""

    def read(text: str) -> int:
        digits = text.replace("_", "").replace(",", "")
        if not (digits.isascii() and digits.isdigit() and int(digits) <= largest):
            raise argparse.ArgumentTypeError(f"should be a number from 0 to {largest:,}, not {text!r}")
        return int(digits)

    return read
