"""A server whose pages are looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.fixtures.server import Client

BROWSER: Mapping[str, str] = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
}
"""What a browser sends that opens a page."""

each_look = pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)


async def live_when(client: Client, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """``/-/live.json`` as soon as it fulfils a condition."""
    found: dict[str, Any] = {}
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at:
        found = (await client.get("/-/live.json")).json()
        if condition(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)
