"""The pictures of the pages for operators, of a server of two processes in which situations are made.

::

    python -m tests.situations.pictures --live docs/live.png --timeline docs/timeline.png

Needs Debian's Chromium, takes half a minute, and reaches nothing but 127.0.0.1. Routes, ids, states and
the order of rows are the same each time; times differ.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

import db.schema.migrate
from conf import DatabaseSettings
from tests.fixtures.browser import browser, new_page
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess, receive
from tests.fixtures.waiting import wait_until
from tests.situations.carrier import Carrier
from tests.situations.handlers import CARRIER
from tests.situations.prepared import ARGUMENTS, Prepared, create_orders

SLOTS = 3
"""Of each pool of each process."""

WIDTH = 1280
COLOURS = 128
"""A picture of text needs no more, and has a third of the bytes."""

INVOICE = "77aa10c4e8b2d936"
CHANGE = '{"state": "paid"}'


def main() -> int:
    """Make the pictures; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--live", type=Path, required=True, metavar="FILE", help="of /-/live")
    parser.add_argument("--timeline", type=Path, required=True, metavar="FILE", help="of a request")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        url = new_database(opened)
        carrier = opened.enter_context(Carrier())
        server = start(folder, opened, url=url, carrier=carrier)
        prepared = Prepared(server, carrier, opened)
        devtools = opened.enter_context(browser(folder))
        pages = f"http://127.0.0.1:{server.port}/-/"
        for request_id in ("first", INVOICE):  # the first one connects, and compiles its statements
            receive(prepared.send("POST", "/customers/1/invoices", process=1, request_id=request_id))
        asyncio.run(take(devtools, f"{pages}requests/{INVOICE}", arguments.timeline))
        fill_the_pool(prepared)
        with locks(prepared, RawSql(url)):
            asyncio.run(take(devtools, f"{pages}live", arguments.live))
    return 0


def new_database(opened: contextlib.ExitStack) -> str:
    """The URL of a database with the orders."""
    cluster = PostgresCluster()
    opened.callback(cluster.remove)
    cluster.start()
    url = cluster.url_for(cluster.create_database("orders"))
    db.schema.migrate.upgrade(DatabaseSettings(url=url))
    create_orders(RawSql(url))
    return url


def start(folder: Path, opened: contextlib.ExitStack, *, url: str, carrier: Carrier) -> ServerProcess:
    """The server, as in development."""
    environ = {"DATABASE_URL": url, "ENVIRONMENT": "development", CARRIER: carrier.url}
    arguments = [*ARGUMENTS, "--port", "0", "--pool-size", str(SLOTS), "--no-autoreload"]
    server = ServerProcess(arguments, environ, folder, module="tests.situations")
    opened.callback(server.kill)
    server.wait_until_it_listens()
    return server


def fill_the_pool(prepared: Prepared) -> None:
    """Have callers of one process wait for slots, for some seconds; then all is done."""
    shipping = [
        prepared.send("POST", f"/orders/{number}/ship", process=0) for number in range(20, 20 + SLOTS + 2)
    ]
    time.sleep(4)
    prepared.carrier.let_go()
    for each in shipping:
        receive(each)
    prepared.carrier.hold()


@contextlib.contextmanager
def locks(prepared: Prepared, sql: RawSql) -> Iterator[None]:
    """One request holds an order; others wait for it, for another program's lock, and for a slot."""
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SET application_name = 'pgAdmin 4'")
        cursor.execute("BEGIN")
        cursor.execute("UPDATE orders SET state = 'lost' WHERE id = 7")
        prepared.send("POST", "/orders/1/ship", process=0, request_id="8a41c7d2f0e94b51")
        wait_until_live_has(prepared, "idle in its transaction")
        time.sleep(2)
        prepared.send("PATCH", "/orders/1", process=1, body=CHANGE, request_id="5f0c7e91d3a04c28")
        prepared.send("PATCH", "/orders/7", process=1, body=CHANGE, request_id="c21f33b80e5d4a67")
        wait_until_live_has(prepared, "pgAdmin 4")
        prepared.send("POST", "/orders/2/ship", process=1, request_id="e07d5a4419bc4f30")
        wait_until_live_has(prepared, "e07d5a4419bc4f30")
        time.sleep(2)
        prepared.send("PATCH", "/orders/3", process=1, body=CHANGE, request_id="9d1b02f6c7e84d15")
        wait_until_live_has(prepared, "number 1 in the queue")
        time.sleep(1)
        yield
        prepared.carrier.let_go()


def wait_until_live_has(prepared: Prepared, text: str) -> None:
    """Wait until the page says something.

    Raises:
        RuntimeError: it does not, within ten seconds.
    """

    def has() -> bool:
        return text in str(prepared.server.request("GET", "/-/live.json").body["units"])

    if not wait_until(has, timeout_s=10):
        raise RuntimeError(f"the page does not say {text!r}:\n{prepared.server.err}")


async def take(devtools: int, url: str, path: Path) -> None:
    """A picture of a whole page."""
    page = await new_page(devtools)
    try:
        await page.call("Emulation.setScrollbarsHidden", hidden=True)
        await page.open(url, width=WIDTH)
        await page.screenshot(path)
    finally:
        await page.close()
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    reduced.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
