"""``python -m server``, and the console script ``onfinish``."""

from __future__ import annotations

import gc
import sys

# Imports leave little garbage behind, and the collector would traverse all that they make, again and again:
# a fifth of a start. `main` enables it, or a command that has more to import.
gc.disable()

from server.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
