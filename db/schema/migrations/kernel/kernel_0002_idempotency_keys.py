"""Idempotency keys, and the answers that they stand for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base import Json, UtcDateTime, now
from db.portable.types import LONG_BYTES, key_text

revision = "kernel_0002"
down_revision = "kernel_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("path", key_text(512, 480), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", Json(), nullable=True),
        sa.Column("body", LONG_BYTES, nullable=True),
        sa.Column("create_time", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("method", "path", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_create_time"), "idempotency_keys", ["create_time"])
