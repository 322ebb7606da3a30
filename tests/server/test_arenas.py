"""The allocator's arenas in a server that is started with the environment of docs/deploy.md."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.process import StartServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"

_HEAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *\n([0-9a-f]+)-([0-9a-f]+) ---p")
_HEAP_BYTES = 64 * 2**20
"""glibc reserves as much for a thread's arena, at a multiple of it, and uses the first part."""


def arenas_of(pid: int) -> int:
    """The number of arenas that glibc has made in a process, without the main thread's."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = 0
    for match in _HEAP.finditer(maps):
        begin, end, free, last = (int(text, 16) for text in match.groups())
        found += begin % _HEAP_BYTES == 0 and end == free and last == begin + _HEAP_BYTES
    return found


@pytest.mark.usefixtures("shelves")
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_all_threads_share_two_arenas_with_the_variable_of_the_unit_file(
    database_url: str, start_server: StartServer
):
    """Without it each thread of the pools would grow an arena of its own, with holes that no other fills."""
    name, value = re.findall(r"^(?:Environment=|.*`ENV )(MALLOC_ARENA_MAX)=(\d+)", PAGE.read_text(), re.M)[0]
    # Not a process that is forked from another Python, which would have its arenas already.
    environ = {"PORT": "0", "POOL_SIZE": "8", name: value}
    server = start_server(url=database_url, environ=environ, warm=False)

    with ThreadPoolExecutor(16) as clients:
        responses = list(clients.map(lambda _: server.request("GET", "/shelves"), range(64)))

    assert {response.status for response in responses} == {200}
    assert arenas_of(server.pid) == 1
