"""``/docs`` of the board: what it has to say, and requests that are sent from the page."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from html import unescape

import pytest

from server.pages.docs import groups_of
from tests.fixtures.browser import Page
from tests.server.conftest import Seen
from tests.server.pages.conftest import each_look
from tests.server.pages.looks import faults_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

TRY = "document.querySelector('#%s form.try')"


async def send(page: Page, operation: str, **fields: str) -> str:
    """Fill in a form of the page and send it; what the page shows of the answer."""
    await page.evaluate(f"document.querySelector('#{operation}').open = true")
    for name, value in fields.items():
        field = TRY % operation + f".elements['{name.replace('_', '-') if name[0].isupper() else name}']"
        await page.evaluate(f"{field}.value = {json.dumps(value)}")
    await page.evaluate(f"{TRY % operation}.querySelector('button').click()")
    shown = ""
    for _ in range(200):
        shown = await page.evaluate(f"{TRY % operation}.querySelector('.answer').innerText")
        if "x-request-id" in shown or "No answer" in shown:
            break
        await asyncio.sleep(0.05)
    return shown


@on_sqlite
@pytest.mark.debian
@pytest.mark.gen_test(timeout=60)
async def test_two_posts_from_the_page_make_two_teams(seen: Seen, page: Page):
    """The example of an optional header is not sent: with an Idempotency-Key the second would be a replay."""
    await page.open(f"http://127.0.0.1:{seen.client.port}/docs")

    first = await send(page, "create_team", body='{"name": "First"}')
    second = await send(page, "create_team", body='{"name": "Second"}')
    refused = await send(page, "create_team", body='{"name": "Second"}')
    replayed = [
        await send(page, "create_team", body='{"name": "Third"}', Idempotency_Key="k1") for _ in range(2)
    ]

    assert first.startswith("201 Created")
    assert second.startswith("201 Created")
    assert '"name": "Second"' in second
    assert refused.startswith("409 ")
    assert "idempotency-replayed: true" in replayed[1]
    names = [each["name"] for each in (await seen.client.get("/teams")).json()["items"]]
    assert names == ["First", "Second", "Third"]


@on_sqlite
@pytest.mark.debian
@pytest.mark.gen_test(timeout=60)
async def test_arguments_of_path_and_query_are_sent_as_they_were_written(seen: Seen, page: Page):
    await page.open(f"http://127.0.0.1:{seen.client.port}/docs")

    missing = await send(page, "get_team", team_id="a/b c")
    wrong = await send(page, "list_tasks", limit="0")
    found = await send(page, "list_tasks", limit="5")

    assert missing.startswith("404 ")
    assert wrong.startswith("400 ")
    assert found.startswith("200 ")


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_it_looks_well_in_a_browser(width: int, scheme: str, seen: Seen, page: Page):
    """Every operation opened, an answer shown."""
    port = seen.client.port
    await page.open(f"http://127.0.0.1:{port}/docs", width=width, scheme=scheme)
    await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    await send(page, "list_teams")

    assert await faults_of(page, width=width, port=port) == []


@on_sqlite
@pytest.mark.debian
@pytest.mark.gen_test(timeout=60)
async def test_without_scripts_it_is_read_and_shows_commands(seen: Seen, page: Page):
    """The forms, which could send nothing, are not there."""
    await page.open(f"http://127.0.0.1:{seen.client.port}/docs", scripts=False)
    opened = "document.querySelector('#create_team summary').click()"
    await page.evaluate(opened)

    assert not await page.evaluate(f"{TRY % 'create_team'}.checkVisibility()")
    shown = await page.evaluate("document.querySelector('#create_team').innerText")
    assert "curl -X POST" in shown


@on_sqlite
@pytest.mark.gen_test(timeout=60)
async def test_the_commands_of_the_page_do_what_the_page_says(seen: Seen):
    """Each that reads a list, run as a shell would: 200."""
    text = unescape((await seen.client.get("/docs")).body.decode())
    commands = re.findall(r"<pre>(curl http[^\n]*/(?:tasks|teams|openapi.json))</pre>", text)

    assert len(commands) >= 3
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert out == b"200", command


@on_sqlite
@pytest.mark.gen_test
async def test_bodies_fields_and_errors_are_those_of_the_document(seen: Seen):
    groups = groups_of((await seen.client.get("/openapi.json")).json())

    operations = {each.id: each for group in groups for each in group.operations}
    create = operations["create_task"]
    assert {field.name for field in create.body if field.required} == {
        "bundle",
        "granularity",
        "target_date",
        "change_id",
    }
    assert {field.name: field.kind for field in create.body}["change_id"] == "integer 0 to 2,147,483,647"
    assert [field.example for field in create.parameters] == [""]  # an optional header
    assert operations["get_task"].parameters[0].example  # the path's, which is required
    conflict = next(each for each in create.answers if each.status == "409")
    assert any("task" in problem for problem in conflict.problems)
