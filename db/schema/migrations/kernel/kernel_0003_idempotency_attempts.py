"""The attempt that wrote an idempotency key's row: the row is the marker of that attempt's COMMIT."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "kernel_0003"
down_revision = "kernel_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Empty in rows that are there: no request still waits for the outcome of their COMMIT.
    op.add_column("idempotency_keys", sa.Column("attempt", sa.String(32), nullable=True))
