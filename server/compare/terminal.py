"""The comparison's output in a terminal: what is being done, and at the end what was found."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import Any, TextIO

from server.compare import findings
from server.compare.columns import TITLES
from server.compare.verdicts import Kind

_COLOURS = {"holds": "32", "refused": "33", "leaked": "35", "stale": "35", "broken": "31", "kept": "31"}
_WORST = "31;1"
_NAME_WIDTH = 22
_TITLE_WIDTH = 46
_WIDTH = 100


class Terminal:
    """Writes lines. Lives as long as one comparison.

    Args:
        stream: where to; colours where that is a terminal and NO_COLOR is not set.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._coloured = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._interim = self._stream.isatty()

    def line(self, text: str = "") -> None:
        """Write a line."""
        self._write(text.rstrip() + "\n")

    def paragraph(self, text: str, *, bullet: str = "") -> None:
        """Write a text, in lines."""
        for line in textwrap.wrap(
            text, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False
        ):
            self.line(line)

    def doing(self, text: str) -> None:
        """Show what is being done now, until the next line; nothing where there is no terminal."""
        if self._interim:
            self._write(f"\r\x1b[K  {text} …")

    def done(self) -> None:
        """Erase the last `doing`."""
        if self._interim:
            self._write("\r\x1b[K")

    def letter(self, verdict: dict[str, Any]) -> str:
        """A verdict's letter, coloured."""
        return self._colour(findings.letter(verdict), verdict["verdict"])

    def legend(self, kind: str) -> str:
        """A kind's letter, coloured."""
        return self._colour(findings.LETTERS[kind], kind)

    def _colour(self, text: str, kind: str) -> str:
        return f"\x1b[{_COLOURS.get(kind, _WORST)}m{text}\x1b[0m" if self._coloured else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def summary(result: dict[str, Any], terminal: Terminal) -> None:
    """Write what was found, in the order of the report: recommendation, picture, price, scenarios."""
    terminal.line()
    for sentence in result["recommendation"]:
        terminal.paragraph(sentence)
    terminal.line()
    _picture(result, terminal)
    terminal.line()
    for sentence in result["conclusion"]:
        terminal.paragraph(sentence, bullet="* ")
    _scenarios(result, terminal)
    if not result["sound"]:
        terminal.line("explicit neither holds nor refuses in at least one scenario")
    if not result["about"]["quick"]:
        terminal.line(f"took {result['about']['took_s']:.0f} s")


def _picture(result: dict[str, Any], terminal: Terminal) -> None:
    groups = findings.by_group(result)
    for column in findings.scopes_of(result):
        cells = " ".join(
            "".join(terminal.letter(scenario["verdicts"][column]) for scenario in scenarios.values())
            for scenarios in groups.values()
        )
        counts = f"{findings.wrong(result, column):>3} wrong, {findings.leaks(result, column):>2} leak"
        terminal.line(f"{TITLES[column]:<{_NAME_WIDTH}}{cells}  {counts}")
    terminal.line()
    for kind in Kind:
        terminal.line(f"  {terminal.legend(kind.value)}  {kind.value}: {kind.meaning}")
    terminal.line("  in lower case: it leaks, too: a connection of the pool was not returned")
    terminal.paragraph(
        f"a letter a scenario, in the order of the list below: {'; '.join(groups)}", bullet="  "
    )


def _scenarios(result: dict[str, Any], terminal: Terminal) -> None:
    columns = findings.scopes_of(result)
    terminal.line()
    terminal.paragraph(
        "Each scenario, its letters in the order of the forms above: "
        + "; ".join(TITLES[column] for column in columns)
    )
    for group, scenarios in findings.by_group(result).items():
        terminal.line()
        terminal.line(f"{group}:")
        for scenario in scenarios.values():
            cells = " ".join(terminal.letter(scenario["verdicts"][column]) for column in columns)
            title = textwrap.shorten(scenario["title"], _TITLE_WIDTH - 1, placeholder="…")
            terminal.line(f"  {title:<{_TITLE_WIDTH}}{cells}")
