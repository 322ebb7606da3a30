"""Sentences are about program elements, in the terms of docs/glossary.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Persons, in names too; and terms of before. In quotes it is data: the user "nobody".
BANNED = re.compile(
    r"""(?<!["'`a-z])(whom?ever|(no|some|any|every)(bodys?|one)|he|his|him|himself)(?!["'`a-z])"""
    r"""|(?<!["'`])\b(to be had|hops?|lanes?|witness(es)?)\b(?!["'`])""",
    re.IGNORECASE,
)


def test_no_sentence_has_a_word_that_is_not_used_here():
    """In the packages, tests, scripts and pages; comments, docstrings and names included."""
    files = {*ROOT.glob("*.md"), *ROOT.glob("*.py"), *filter(Path.is_file, (ROOT / "scripts").iterdir())}
    for folder in ("conf", "db", "docs", "handlers", "server", "tests"):
        files |= {*(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.py")}
    files.remove(Path(__file__).resolve())

    assert [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted(files)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if BANNED.search(line)
    ] == []
