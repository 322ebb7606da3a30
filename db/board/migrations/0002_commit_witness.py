"""No table of the board's: from this revision on the kernel has the commit markers."""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = "kernel_0001"


def upgrade() -> None:
    pass
