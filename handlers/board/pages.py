"""Lists in answers, written a few of their items at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pydantic_core import to_json
from tornado.web import RequestHandler

_AT_ONCE_BYTES = 32 * 1024
"""About one task of the largest size, which takes some 5 ms to parse and write; a hundred small ones."""

_TURNS = 5
"""Of the event loop. Another request takes about so many from its first byte to its answer; with one turn
after each piece it would wait for as many pieces."""


async def write_items(handler: RequestHandler, items: Iterable[object], **others: object) -> None:
    """Answer with a list, as `write_json` does with a value. The last thing a method does.

    Args:
        handler: which answers.
        items: as for `items_json`.
        others: the fields behind it.
    """
    body = await items_json(items, **others)
    handler.set_header("Content-Type", "application/json")
    handler.finish(body)


async def items_json(items: Iterable[object], **others: object) -> bytes:
    """An object with ``items`` and other fields, as `write_json` writes it; other requests get their turns.

    Args:
        items: those of the list. Each is asked for when the one before is written, so that an iterator
            which makes them has no more than one at a time.
        others: the fields behind it.
    """
    pieces = []
    size = 0
    for item in items:
        piece = to_json(item, inf_nan_mode="null")
        pieces.append(piece)
        size += len(piece)
        if size > _AT_ONCE_BYTES:
            size = 0
            for _ in range(_TURNS):
                await asyncio.sleep(0)
    rest = to_json(others, inf_nan_mode="null")[1:]
    return b'{"items":[' + b",".join(pieces) + (b"]," if others else b"]") + rest
