"""The commit markers: rows by which a COMMIT whose answer was lost is found applied, or not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base import UtcDateTime, now

revision = "kernel_0001"
down_revision = None
branch_labels = ("kernel",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commit_witness",
        sa.Column("connection", sa.String(32), nullable=False),
        sa.Column("transaction", sa.String(32), nullable=False),
        sa.Column("update_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("connection", name=op.f("pk_commit_witness")),
    )
