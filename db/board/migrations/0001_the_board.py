"""The board: teams, tasks and the log of transfers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base import Json, SerialId, UtcDateTime, now
from db.portable.types import NUMBERS_ONCE, chars, empty_json

revision = "0001"
down_revision = None
branch_labels = ("board",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", SerialId, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("create_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(chars(sa.column("name")).between(1, 64), name=op.f("ck_teams_name")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
        **NUMBERS_ONCE,
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("task_status", sa.SmallInteger(), server_default=sa.text("101"), nullable=False),
        sa.Column("s3_keys", Json(), server_default=empty_json(), nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("granularity", sa.String(8), nullable=False),
        sa.Column("target_date", sa.Date(), nullable=False),
        sa.Column("change_id", sa.Integer(), nullable=False),
        sa.Column("team_id", SerialId, nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("create_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("update_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(
            sa.and_(chars(sa.column("id")) == 32, sa.text("id = lower(id)")), name=op.f("ck_tasks_id")
        ),
        sa.CheckConstraint("task_status IN (101, 102, 200, 400, 99)", name=op.f("ck_tasks_task_status")),
        sa.CheckConstraint(chars(sa.column("bundle")).between(1, 64), name=op.f("ck_tasks_bundle")),
        sa.CheckConstraint(
            "granularity IN ('hourly', 'daily', 'weekly', 'monthly')", name=op.f("ck_tasks_granularity")
        ),
        sa.CheckConstraint("change_id BETWEEN 0 AND 2147483647", name=op.f("ck_tasks_change_id")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_tasks_version")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_tasks_team_id_teams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_create_time_id"), "tasks", ["create_time", "id"])
    for column in ("task_status", "bundle", "granularity", "team_id", "target_date"):
        op.create_index(op.f(f"ix_tasks_{column}_create_time_id"), "tasks", [column, "create_time", "id"])
    op.create_table(
        "transfers",
        sa.Column("id", SerialId, nullable=False),
        sa.Column("task_id", sa.String(32), nullable=False),
        sa.Column("from_team_id", SerialId, nullable=True),
        sa.Column("to_team_id", SerialId, nullable=True),
        sa.Column("note", sa.String(1000), nullable=True),
        sa.Column("create_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(
            "coalesce(from_team_id, 0) <> coalesce(to_team_id, 0)", name=op.f("ck_transfers_goes_somewhere")
        ),
        sa.CheckConstraint(chars(sa.column("note")) <= 1000, name=op.f("ck_transfers_note")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_transfers_task_id_tasks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        **NUMBERS_ONCE,
    )
    op.create_index(op.f("ix_transfers_task_id_id"), "transfers", ["task_id", "id"])
