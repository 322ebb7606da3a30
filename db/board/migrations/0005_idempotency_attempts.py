"""No table of the board's: from this revision on the kernel has the attempts of idempotency keys."""

from __future__ import annotations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = "kernel_0003"


def upgrade() -> None:
    pass
