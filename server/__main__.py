"""``python -m server``, and the console script ``onfinish``."""

from __future__ import annotations

import gc
import sys

# New objects between two garbage collections. Imports make a hundred thousand that stay; with Python's own
# 700 the collector traversed them again and again, a sixth of a start.
gc.set_threshold(50_000)

from server.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
