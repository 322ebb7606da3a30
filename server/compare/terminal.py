"""The comparison's output in a terminal, while it runs."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

_COLOURS = {"holds": "32", "refused": "33", "leaked": "35", "lost": "31", "stale": "31", "mixed": "31"}
_TITLE_WIDTH = 48
_CELL_WIDTH = 13


class Terminal:
    """Writes a table cell by cell, as results come in. Lives as long as one comparison.

    Args:
        stream: where to; colours where that is a terminal and NO_COLOR is not set.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._coloured = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._interim = self._stream.isatty()

    def line(self, text: str = "") -> None:
        """Write a line."""
        self._write(text + "\n")

    def headline(self, scopes: Sequence[str]) -> None:
        """Write the head of the table of verdicts."""
        cells = "".join(f"{scope:<{_CELL_WIDTH}}" for scope in scopes)
        self.line(f"{'':<{_TITLE_WIDTH}}{cells}".rstrip())

    def title(self, title: str) -> None:
        """Write the first cell of a scenario's line."""
        self._write(f"{textwrap.shorten(title, _TITLE_WIDTH - 1, placeholder='…'):<{_TITLE_WIDTH}}")

    def cell(self, result: dict[str, Any]) -> None:
        """Write a scope's verdict, with a plus where more was found."""
        word = result["verdict"] + ("+" if result["also"] else "")
        self._write(self._colour(f"{word:<{_CELL_WIDTH}}", _COLOURS.get(result["verdict"], "31;1")))

    def doing(self, text: str) -> None:
        """Write what is being done now; on a terminal the next line overwrites it."""
        self._write(f"\r\x1b[K  {text} …" if self._interim else f"  {text} …\n")

    def done(self) -> None:
        """Erase the last `doing`."""
        if self._interim:
            self._write("\r\x1b[K")

    def _colour(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def summary(result: dict[str, Any], terminal: Terminal) -> None:
    """Write the conclusions, in the words of the report."""
    terminal.line()
    for sentence in result["conclusion"]:
        for line in textwrap.wrap(sentence, 100, initial_indent="* ", subsequent_indent="  "):
            terminal.line(line)
    if not result["sound"]:
        terminal.line("explicit neither holds nor refuses in at least one scenario")
    terminal.line(f"{result['about']['took_s']:.0f} s")
