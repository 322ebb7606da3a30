"""Findings, as lines that fit a terminal."""

from __future__ import annotations

import shutil
import textwrap

_WIDTH_MAX = 110


def lines(label: str, message: str, fix: str) -> str:
    """A message behind its label, and the fix below it, where there is one.

    Words are not broken, so that a fix can be copied from the terminal.
    """
    width = min(shutil.get_terminal_size().columns, _WIDTH_MAX)
    indent = " " * len(label)

    def filled(text: str, below: str) -> str:
        return textwrap.fill(
            text, width, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
        )

    text = filled(label + message, indent)
    return f"{text}\n{filled(f'{indent}-> {fix}', f'{indent}   ')}" if fix else text
