"""Every page: its links lead somewhere, its code is code that a test runs, its commands can be given.

The lines of a block of Python are those of a file that its page links to, which the tests run; or a test
takes the block from the page and runs it. A command is read by the command line itself. A block in any other
language is taken from its page by a test that names the page.
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from conf.names import names
from server.cli import UsageError, build_parser, find_commands
from tests.documents import (
    DOCS,
    OF_THE_BOARD,
    ROOT,
    Block,
    anchors,
    blocks,
    commands,
    is_left_out,
    links,
    pages,
)

INDEX = DOCS / "README.md"

on_every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def has_board() -> bool:
    return (ROOT / "db" / "board").exists()


# -- links


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if is_left_out(target):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@on_every_page
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path):
    assert [*broken(page)] == []


def test_every_page_is_in_the_index():
    """Each has one line there, and so one job."""
    listed = {(INDEX.parent / link).resolve() for link in links(INDEX)}

    assert {page for page in pages() if page.is_relative_to(DOCS)} - {INDEX} <= listed


# -- blocks


@cache
def modules() -> dict[Path, str]:
    """The tests' text, by path."""
    return {path: path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)}


def named_by(page: Path) -> list[str]:
    """The text of the test modules that name a page as a file."""
    name = re.compile(rf"""["/ ]{re.escape(page.name)}["`:]""")
    return [text for path, text in modules().items() if path.name.startswith("test_") and name.search(text)]


def is_taken(block: Block) -> bool:
    """Whether a test takes it from the page: by the file's name at its top, or by how it begins."""
    takers = named_by(block.page)
    if re.match(r"# \S+\.py\n", block.text):
        return bool(takers)
    if any('findall(r"^```' in text for text in takers):
        return True  # it takes them all
    taken = [begin for text in takers for begin in re.findall(r'(?:snippet|block)\(.*?"([^"]+)"\)', text)]
    return any(block.text.startswith(begin) for begin in taken)


@cache
def examples_of(page: Path) -> list[str]:
    """The text of the Python files that a page links to, if the tests run them."""
    files = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".py" in link}
    return [without_comments(path.read_text()) for path in files if path.is_file() and is_run(path)]


def is_run(path: Path) -> bool:
    """Whether a file is a test, or a test imports it."""
    stem = re.compile(rf"\b{path.stem}\b")
    return path.name.startswith("test_") or any(
        each.name.startswith("test_") and stem.search(text) for each, text in modules().items()
    )


def without_comments(text: str) -> str:
    return re.sub(r" *# .*$", "", text, flags=re.MULTILINE)


def has_lines(text: str, lines: list[str]) -> bool:
    """Whether a text has all of these lines, in their order."""
    rest = iter(text.splitlines())
    return all(line in rest for line in lines)


def is_of_an_example(block: Block) -> bool:
    """Whether its lines are those of one linked file; what is left out between them is not shown.

    Of a file that is the board's nothing can be said where there is none.
    """
    if any(is_left_out((block.page.parent / link).resolve()) for link in links(block.page)):
        return True
    lines = [line for line in without_comments(block.text).splitlines() if line.strip()]
    return any(has_lines(text, lines) for text in examples_of(block.page))


@on_every_page
def test_every_block_of_python_is_code_that_the_tests_run(page: Path):
    for block in blocks(page, "python"):
        assert is_taken(block) or is_of_an_example(block), str(block)


OF_CLUSTERS = DOCS / "distributed.md"
"""Its configurations are excerpts of what the fixtures of `tests/distributed` start clusters with."""


@on_every_page
def test_every_other_block_is_read_by_a_test(page: Path):
    """A configuration, a statement, an answer: by one that names the page. A picture in text is none."""
    others = [block for block in blocks(page) if block.language not in ("python", "sh", "console", "text")]

    assert not others or named_by(page) or page == OF_CLUSTERS, [str(block) for block in others]
    assert page == OF_CLUSTERS or all(block.language for block in others), (
        "a block has a language; a picture in text is `text`"
    )


# -- commands


def test_the_page_of_the_commands_has_each_of_them():
    """Those of an application's own are in a package, and on a page of its own."""
    table = (DOCS / "commands.md").read_text()
    folder = ROOT / "server" / "commands"
    kernels = [name for name in find_commands() if (folder / f"{name}.py").exists()]

    assert len(kernels) >= 8
    assert [name for name in kernels if f"| `{name}" not in table] == []


OF_OTHERS = {"cd", "find", "rm", "curl", "docker", "install", "pip", "pytest", "sudo", "systemctl", "openssl"}
"""Programs of others: what they are given is not looked at here."""


def fault(line: str) -> str | None:
    """What is wrong with a command line, or None."""
    if line.partition(" ")[0] in OF_OTHERS:
        return None
    words = shlex.split(re.sub(r"\s#\s.*| [|>&].*|…|\[[^\]]*\]|(?<=\w)\.\.\.", "", line))
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:] if words[0].partition("=")[0] in variables() else ["there is no", words[0]]
    match words:
        case []:
            return None
        case ["export", *assigned]:
            unknown = [each for each in assigned if each.partition("=")[0] not in variables()]
            return f"there is no variable {unknown}" if unknown else None
        case ["onfinish" | "scripts/serve", *arguments] | [
            "python",
            "-m",
            "server" | "onfinish.server",
            *arguments,
        ]:
            return usage_fault(arguments)
        case ["python", "-m", module, *_]:
            module = module.removeprefix("onfinish.")  # as it is installed
            return None if is_found(module) else f"there is no module {module}"
        case [program, *_] if program.startswith("scripts/") or program == ".":
            path = ROOT / (words[1] if program == "." else program)
            return None if path.exists() or ".venv" in path.parts else f"there is no {path}"
        case ["pip", "install", *what]:
            unknown = [each for each in re.findall(r"\[(\w+)\]", " ".join(what)) if each not in extras()]
            return f"there is no extra {unknown}" if unknown else None
        case [program, *_]:
            return None if program in OF_OTHERS else f"{program} is no program of this project"
    raise AssertionError


def usage_fault(arguments: list[str]) -> str | None:
    """What the command line says of arguments; capitals stand for a value, and the board's are its own."""
    found = find_commands()
    parser, _ = build_parser(found)
    arguments = ["serve" if each == "COMMAND" else each for each in arguments]
    try:
        parser.parse_args(["1" if re.fullmatch(r"[A-Z]{2,}", each) else each for each in arguments])
    except UsageError as error:
        return None if arguments[:1] == ["seed"] and not has_board() else str(error)
    except SystemExit as error:
        return None if error.code == 0 else f"exits with {error.code}"
    return None


@cache
def variables() -> set[str]:
    """Names of settings' variables, and those that the tests have."""
    return {name.variable for name in names().values()} | {"TEST_DATABASE_URL", "CONF_DIR", "PYTHON"}


@cache
def extras() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return {*setup["options.extras_require"]}


def is_found(module: str) -> bool:
    left_out = set(module.split(".")).intersection(OF_THE_BOARD) and not has_board()
    return bool(left_out) or find_spec(module) is not None


@on_every_page
def test_every_command_can_be_given(page: Path):
    found = {f"{where}: {line}": fault(line) for where, line in commands(page)}

    assert {line: said for line, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "line",
    [
        "python -m server migrat",
        "python -m server serve --prt 3",
        "scripts/serve --no-such-flag",
        "scripts/build",
        "python -m tests.nothing",
        "export DATABSE_URL=sqlite://",
        "make all",
    ],
)
def test_a_command_that_is_not_there_is_found(line: str):
    assert fault(line) is not None
