"""Whose row an idempotency key's is: the row is the witness of that attempt's COMMIT."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Empty in rows that are there: of their COMMIT nobody asks any more.
    op.add_column("idempotency_keys", sa.Column("attempt", sa.String(32), nullable=True))
