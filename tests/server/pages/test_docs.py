"""``/docs``: the API to read and to try."""

from __future__ import annotations

import re

import pytest

from server.monitoring.ops import Ops
from server.pages.docs import code
from tests.server.conftest import Seen

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@on_sqlite
@pytest.mark.gen_test
async def test_every_operation_of_the_document_is_on_the_page(seen: Seen):
    """Each once, HEAD and OPTIONS left out."""
    document = (await seen.client.get("/openapi.json")).json()
    text = (await seen.client.get("/docs")).body.decode()

    described = {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert set(re.findall(r'<details class="op" id="([^"]+)"', text)) == described


def test_what_is_described_is_text_and_code_is_code():
    assert code("a <b> of `x < y`") == "a &lt;b&gt; of <code>x &lt; y</code>"


@on_sqlite
@pytest.mark.gen_test
async def test_without_a_setting_production_has_none_and_with_it_it_has_no_links_for_operators(
    settings, make_application, serve, database
):
    production = settings.model_copy(
        update={"environment": "production", "http": settings.http.model_copy(update={"docs": True})}
    )
    client = serve(make_application(production, database, Ops(production)))

    answer = await client.get("/docs")

    assert answer.code == 200
    assert b"stats" not in answer.body.split(b"</header>")[0]
    assert production.database.shown_url.encode() not in answer.body
    assert (await client.get("/")).code == 404
