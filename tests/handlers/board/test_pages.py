"""A list is written without keeping the event loop from others, and is what it is written at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic_core import to_json

from handlers.board.pages import items_json

pytestmark = pytest.mark.gen_test

LARGE = {"s3_keys": {"a": [1] * 30_000}}


async def turns_during(items: list[Any]) -> int:
    """How often another task has its turn while a list is written."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count())
    await asyncio.sleep(0)
    await items_json(items)
    counting.cancel()
    return turns


@pytest.mark.parametrize("number", [0, 1, 20, 21, 50])
@pytest.mark.parametrize("others", [{}, {"next_cursor": None}, {"next_cursor": 'a"b', "count": 1}])
async def test_the_text_is_that_of_the_whole_written_at_once(number: int, others: dict[str, Any]):
    items = [{"number": n, "text": "ü"} for n in range(number)]

    assert await items_json(items, **others) == to_json({"items": items, **others})


async def test_others_have_their_turns_while_large_items_are_written():
    """A page of the thousand largest tasks took 1.4 s in one piece."""
    assert await turns_during([LARGE] * 100) >= 4


async def test_a_page_of_small_items_is_written_in_one_turn():
    assert await turns_during([{"id": "a" * 32}] * 100) == 0


async def test_nothing_that_json_does_not_have_is_written():
    assert json.loads(await items_json([float("nan")])) == {"items": [None]}
