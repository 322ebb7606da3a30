"""Sentences are about program elements, in the terms of docs/glossary.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Persons, and terms of before. In quotes it is data: the user "nobody".
BANNED = re.compile(
    r"""(?<!["'`])\b(whom?ever|(no|some|any|every)(body|one)|he|his|him|himself"""
    r"""|to be had|hops?|lanes?|witness(es)?)\b(?!["'`])""",
    re.IGNORECASE,
)


def test_no_sentence_has_a_word_that_is_not_used_here():
    """In the packages, scripts and pages, comments and docstrings included. The tests are still to follow."""
    files = {*ROOT.glob("*.md"), *ROOT.glob("*.py")}
    for folder in ("conf", "db", "docs", "handlers", "scripts", "server"):
        files |= {*(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.py")}

    assert [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted(files)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if BANNED.search(line)
    ] == []
