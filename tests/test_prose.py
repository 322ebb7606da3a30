"""Sentences are about program elements, in the terms of docs/glossary.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Persons, and terms of before. In quotes it is data: the user "nobody".
BANNED = re.compile(
    r"""(?<!["'`])\b(whom?ever|(no|some|any|every)(body|one)|he|his|him|himself"""
    r"""|to be had|hops?|lanes?|witness(es)?)\b(?!["'`])""",
    re.IGNORECASE,
)


def tracked() -> list[str]:
    """The Python files and pages of the repository; all but this one."""
    files = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, check=True, capture_output=True)
    return sorted({*files.stdout.decode().split()} - {"tests/test_prose.py"})


@pytest.mark.parametrize("name", tracked())
def test_no_sentence_has_a_word_that_is_not_used_here(name: str):
    """Names in quotes apart."""
    lines = (ROOT / name).read_text().splitlines()

    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if BANNED.search(line)] == []
