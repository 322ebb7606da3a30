"""What this program is called, in the tree or installed as one package (`setup.py`)."""

from __future__ import annotations

PREFIX = __name__.removesuffix("conf.program")
"""What the names of the four packages begin with: nothing in the tree, ``onfinish.`` where installed."""

COMMAND = "onfinish" if PREFIX else "python -m server"
"""The command line, for messages that name one of its commands."""
