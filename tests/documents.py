"""The pages for readers, taken apart: their blocks of code, their links, the commands that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

OF_THE_BOARD = ("board", "bench")
"""Folders that an application of one's own has not; what links into them is not looked for there."""

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page that a reader opens."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, in one language or in all; an indented one loses its indent."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        indent = len(match[0]) - len(match[0].lstrip())
        lines = [line[indent:] for line in match[2].splitlines(keepends=True)]
        lines = [line or "\n" for line in lines]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], "".join(lines)))
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """The targets of a page's links, pictures among them."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def is_left_out(target: Path) -> bool:
    """Whether a file is the board's, in a clone that has none."""
    parts = target.relative_to(ROOT).parts if target.is_relative_to(ROOT) else ()
    return bool(set(OF_THE_BOARD).intersection(parts)) and not (ROOT / "db" / "board").exists()


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """The command lines of a page, and where each stands: those of its blocks, and those in its sentences."""
    for block in blocks(page):
        text = re.sub(r"\\\n *", " ", block.text)
        lines = text.splitlines()
        if block.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        if block.language in ("sh", "console"):
            yield from ((str(block), line) for line in lines if line.strip() and line.lstrip()[0] != "#")
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page)):
        if re.match(r"(python -m|onfinish|scripts/\w+) [a-z-]", code):
            yield str(page.relative_to(ROOT)), code
