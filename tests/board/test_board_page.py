"""docs/board/README.md, tried: its calls as they are printed, and its table of errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import subprocess
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from conf import Settings
from tests.documents import DOCS, blocks
from tests.fixtures.board.contract import DOCUMENT
from tests.fixtures.process import ServerProcess

PAGE = DOCS / "board" / "README.md"

PRINTED_PORT = 8888
# What is another one each time; everything else of a printed answer is what a fresh server answers.
VOLATILE = ("create_time", "update_time", "request_id")


class Call(NamedTuple):
    """A command of the console block, and what it prints."""

    command: str
    printed: str


def calls() -> list[Call]:
    """The commands and what they print, in turn. The answer is what begins with a brace."""
    [console] = blocks(PAGE, "console")
    found = []
    for part in re.split(r"^\$ ", console.text, flags=re.MULTILINE)[1:]:
        command, brace, answer = part.partition("\n{")
        found.append(Call(command, (brace + answer).strip()))
    return found


def statuses_in_the_table() -> set[str]:
    """The statuses that the page's table of errors tells."""
    table = PAGE.read_text().partition("## Errors")[2]
    return set(re.findall(r"\d{3}", "".join(re.findall(r"^\| (\d[\d, ]*) \|", table, re.MULTILINE))))


def test_every_error_that_may_be_answered_is_in_the_table():
    """What the document tells, and what no document can: the methods that are not there."""
    described = {"405"}
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            if "responses" in operation:  # else it is the path's parameters
                described |= {status for status in operation["responses"] if status >= "400"}

    assert statuses_in_the_table() == described


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
    """Send what a curl command would send. Knows no other options than the page's, and refuses those."""
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
    """The text of the page, given to a shell; only the port is the test's own."""
    server = start_server(url="sqlite://")

    for call in calls():
        command = call.command.replace(f":{PRINTED_PORT}/", f":{server.port}/")
        output = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout
        assert masked(json.loads(output)) == masked(json.loads(call.printed)), command


def test_the_calls_go_to_the_port_that_is_served_by_default():
    """The first command, and then the first call, reach the server."""
    assert Settings().http.port == PRINTED_PORT
    assert f"http://127.0.0.1:{PRINTED_PORT}/" in PAGE.read_text()
