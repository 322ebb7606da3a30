"""What the README says is so: its commands, its calls, its code, its tables."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
from sqlalchemy.orm import Session
from tornado.web import Application, RequestHandler

import handlers.base
from conf import Settings
from conf.names import names
from handlers import SessionHandler
from tests.examples import notes
from tests.fixtures.board.contract import DOCUMENT
from tests.fixtures.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

PRINTED_PORT = 8888
# What is another one each time; everything else of a printed answer is what a fresh server answers.
VOLATILE = ("create_time", "update_time", "request_id")


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


class Call(NamedTuple):
    """A command of the console block, and what it prints."""

    command: str
    printed: str


def calls() -> list[Call]:
    """The commands and what they print, in turn. The answer is what begins with a brace."""
    [console] = blocks("console")
    found = []
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, brace, answer = part.partition("\n{")
        found.append(Call(command, (brace + answer).strip()))
    return found


def statuses_in(section: str) -> set[str]:
    """The statuses that the README's table of errors tells."""
    [table] = re.findall(rf"^### {section}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"\d{3}", "".join(re.findall(r"^\| (\d[\d, ]*) \|", table, re.MULTILINE))))


def test_every_error_that_may_be_answered_is_in_the_table():
    """What the document tells, and what no document can: the methods that are not there."""
    described = {"405"}
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            if "responses" in operation:  # else it is the path's parameters
                described |= {status for status in operation["responses"] if status >= "400"}

    assert statuses_in("Errors") == described


def masked(value: Any) -> Any:
    """A JSON value whose volatile fields are told by their type only."""
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, dict):
        return {
            name: type(item).__name__ if name in VOLATILE else masked(item) for name, item in value.items()
        }
    return value


def send_as_curl_does(server: ServerProcess, command: str) -> Any:
    """Send what a curl command would send. Knows no other options than the README's, and refuses those."""
    curl, *arguments = shlex.split(command.replace("\\\n", " "))
    assert curl == "curl"
    method, url, body = "", "", None
    headers = {"User-Agent": "curl", "Accept": "*/*"}
    words = iter(arguments)
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word != "-s":
            assert word.startswith("http://"), f"what is {word!r}?"
            url = word
    parts = urlsplit(url)
    assert (parts.hostname, parts.port) == ("127.0.0.1", PRINTED_PORT)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method or ("GET" if body is None else "POST"), target, body, headers)
        return json.loads(connection.getresponse().read())


# -- the calls


def test_there_are_five_calls():
    """Fewer show too little, more are not read; each has its answer printed below it."""
    assert len(calls()) == 5
    assert all(call.printed for call in calls())


def test_the_calls_answer_as_printed(database_url, start_server):
    """One after the other, on a fresh server."""
    server = start_server(url=database_url)

    for call in calls():
        assert masked(send_as_curl_does(server, call.command)) == masked(json.loads(call.printed)), (
            call.command
        )


@pytest.mark.debian
def test_the_calls_answer_as_printed_with_curl_itself(start_server):
    """The text of the README, given to a shell; only the port is the test's own."""
    server = start_server(url="sqlite://")

    for call in calls():
        command = call.command.replace(f":{PRINTED_PORT}/", f":{server.port}/")
        output = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout
        assert masked(json.loads(output)) == masked(json.loads(call.printed)), command


def test_the_calls_go_to_the_port_that_is_served_by_default():
    """The first command, and then the first call, reach the server."""
    assert Settings().http.port == PRINTED_PORT
    assert f"http://127.0.0.1:{PRINTED_PORT}/" in README


def test_the_commands_are_there():
    """Each command of the shell block can be run in a clone."""
    [block] = blocks("sh")
    commands = [line.split("#")[0].strip() for line in block.splitlines()]

    assert commands == ["scripts/serve", "scripts/test"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)


# -- the naive form and ours


@pytest.fixture
def readme_code() -> dict[str, Any]:
    """What the README's two short blocks define, run with the names that they use."""
    naive, ours, _ = blocks("python")
    code = {
        "Note": notes.Note,
        "RequestHandler": RequestHandler,
        "Session": Session,
        "SessionHandler": SessionHandler,
        "__name__": "readme",
    }
    exec(naive + ours, code)
    return code


async def post_twice(client) -> list[int]:
    """The same note two times; the statuses that the clients read."""
    form = urlencode({"text": "buy milk"}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return [(await client.post("/notes", form, headers=headers)).code for _ in range(2)]


@pytest.mark.gen_test
async def test_the_naive_form_tells_201_and_loses_the_write(readme_code, database, serve, sql, expect_log):
    """The loss is real, on both databases."""
    engine = database.writer.engine
    notes.Base.metadata.create_all(engine)
    client = serve(Application([("/notes", readme_code["NaiveNotesHandler"])], engine=engine))

    with expect_log("", "", level=40) as errors:
        statuses = await post_twice(client)

    assert statuses == [201, 201]
    assert sql("SELECT text FROM notes") == [{"text": "buy milk"}]
    assert errors[0].exc_info is not None
    assert type(errors[0].exc_info[1]).__name__ == "IntegrityError"


@pytest.mark.gen_test
async def test_the_same_method_on_a_session_handler_is_refused(readme_code, database, serve, sql, expect_log):
    """Held until COMMIT, dropped when that failed."""
    notes.Base.metadata.create_all(database.writer.engine)
    client = serve(Application([("/notes", readme_code["HeldNotesHandler"])], database=database))

    with expect_log("tornado.access", "409 POST /notes"):
        statuses = await post_twice(client)

    assert statuses == [201, 409]
    assert sql("SELECT text FROM notes") == [{"text": "buy milk"}]


def test_both_forms_have_the_same_method():
    """What differs is the class they stand on, and nothing else."""
    naive, ours, _ = blocks("python")
    [naive_method] = re.findall(r"    def post.*", naive, re.DOTALL)
    [our_method] = re.findall(r"    def post.*", ours, re.DOTALL)

    assert naive_method == our_method


# -- text that stands elsewhere too


def test_the_picture_is_the_one_of_the_code():
    """The docstring of handlers/base.py and the README draw the same way of a request, hook for hook."""
    [picture] = re.findall(r"^```\n(prepare .*?)^```", README, re.DOTALL | re.MULTILINE)
    in_code = handlers.base.__doc__ or ""
    hooks = re.findall(r"^[a-z_/…()]+ {3,}.*$", picture, re.MULTILINE)
    assert len(hooks) == 5
    for hook in hooks:
        assert hook in in_code


def test_the_application_is_the_example():
    """The block is the text of the module that the tests run, but for its docstring."""
    shown = blocks("python")[2]
    source = Path(notes.__file__).read_text()

    assert shown.strip() == source.split('"""\n', 1)[1].strip()


def settings_table(paths: Sequence[str]) -> str:
    """The README's table of settings, made from the models."""
    rows = ["| setting | flag | variable | default | |", "|---|---|---|---|---|"]
    for path in paths:
        name = names()[path]
        value: Any = Settings()
        for part in path.split("."):
            value = getattr(value, part)
        value = value.get_secret_value() if path == "database.url" else value
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        rows.append(
            f"| `{path}` | `{name.flag}` | `{name.variable}` | `{shown}` | {name.field.description} |"
        )
    return "\n".join(rows)


def test_the_table_of_settings_is_what_the_models_say():
    """Flag, variable, default and description of each setting that is listed."""
    [table] = re.findall(r"^\| setting \|.*?(?=\n\n)", README, re.DOTALL | re.MULTILINE)
    paths = re.findall(r"^\| `([a-z_.]+)`", table, re.MULTILINE)

    assert len(paths) >= 10
    assert table == settings_table(paths)


def test_what_the_readme_links_to_exists():
    """Files of the clone."""
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert len(links) >= 4
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
