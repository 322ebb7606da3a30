"""The list's index knows target dates: a range of them is told apart without a look at the rows."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        op.f("ix_tasks_create_time_id_target_date"), "tasks", ["create_time", "id", "target_date"]
    )
    op.drop_index(op.f("ix_tasks_create_time_id"), "tasks")
