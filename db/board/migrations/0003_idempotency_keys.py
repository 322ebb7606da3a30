"""No table of the board's: from this revision on the kernel has the idempotency keys."""

from __future__ import annotations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = "kernel_0002"


def upgrade() -> None:
    pass
