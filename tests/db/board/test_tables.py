"""The board's tables, as they are and as raw SQL writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from db import Database
from db.base import KernelBase, refusals
from db.board.base import Base
from tests.fixtures.board.rows import load_task
from tests.fixtures.databases import RawSql


def test_raw_sql_may_leave_out_what_the_server_makes(database: Database, sql: RawSql):
    """The seed document's own INSERT, into the table as it is here."""
    sql(
        "INSERT INTO tasks"
        " (id, task_status, s3_keys, create_time, bundle, granularity, target_date, change_id)"
        " VALUES ('f2ee55c638084ebfb35a00c003670ad9', '101', '{}', '2020-03-01',"
        " 'store', 'daily', '2020-04-01', '3')"
    )

    task = load_task(database, "f2ee55c638084ebfb35a00c003670ad9")
    assert (task.task_status, task.s3_keys, task.version, task.team_id) == (101, {}, 1, None)
    # In the time zone of the connection, which is the cluster's.
    assert task.create_time.date().isoformat() in ("2020-03-01", "2020-02-29")
    assert abs(datetime.now(UTC) - task.update_time) < timedelta(minutes=1)


_UNSEEN = ("pk_teams", "pk_transfers", "pk_commit_witness", "pk_idempotency_keys")
"""Constraints that no client's request can meet: the database and the service make those keys."""


def test_every_constraint_that_can_refuse_has_a_sentence():
    """A client is told what is wrong by the constraint's name; one without a sentence would say nothing."""
    names = {
        str(constraint.name)
        for metadata in (KernelBase.metadata, Base.metadata)
        for table in metadata.sorted_tables
        for constraint in table.constraints
        if constraint.name not in _UNSEEN
    }

    assert names <= refusals.keys()
