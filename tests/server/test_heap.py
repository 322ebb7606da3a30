"""The server's heap: what each of its threads would have of its own."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.process import StartServer

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

_HEAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *\n([0-9a-f]+)-([0-9a-f]+) ---p")
_HEAP_BYTES = 64 * 2**20
"""glibc takes so much room for a thread's arena, at a multiple of it, and uses the first part."""


def arenas_of(pid: int) -> int:
    """How many arenas glibc has made in a process, the main thread's apart."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = 0
    for match in _HEAP.finditer(maps):
        begin, end, free, last = (int(text, 16) for text in match.groups())
        found += begin % _HEAP_BYTES == 0 and end == free and last == begin + _HEAP_BYTES
    return found


@pytest.mark.parametrize(("environ", "fewest", "most"), [({}, 1, 1), ({"MALLOC_ARENA_MAX": "5"}, 3, 4)])
@pytest.mark.usefixtures("shelves")
def test_all_threads_share_two_arenas_unless_somebody_has_chosen(
    database_url: str, start_server: StartServer, environ: dict[str, str], fewest: int, most: int
):
    """Else each place of the pools would grow a heap of its own, with holes that no other thread fills."""
    # Not one that is forked from another Python: that would have its arenas already.
    server = start_server(url=database_url, environ={"PORT": "0", "POOL_SIZE": "8", **environ}, warm=False)

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: server.request("GET", "/shelves?limit=1"), range(64)))

    assert {answer.status for answer in answers} == {200}
    assert fewest <= arenas_of(server.pid) <= most
