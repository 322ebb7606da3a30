"""The witness of commits: what tells whether a COMMIT was applied whose answer was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base import UtcDateTime, now

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commit_witness",
        sa.Column("connection", sa.String(32), nullable=False),
        sa.Column("transaction", sa.String(32), nullable=False),
        sa.Column("update_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("connection", name=op.f("pk_commit_witness")),
    )
