"""Five situations of a server of two processes on PostgreSQL, each told from the text of its pages alone."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from html import unescape
from inspect import getsourcelines
from typing import Any
from urllib.request import urlopen

import pytest

from server.pages.clock import zone
from tests.fixtures.databases import RawSql
from tests.fixtures.process import StartServer, receive
from tests.fixtures.waiting import wait_until
from tests.situations import handlers, model
from tests.situations.carrier import Carrier
from tests.situations.prepared import ARGUMENTS, Prepared, create_orders

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

SLOTS = 3
"""Of each pool of each process."""

BLOCKS = re.compile(r"<(?:/p|/li|/div|/h[1-6]|/section|/title|br)\b[^>]*>")


def text_of(page: str) -> str:
    """What is read of a page: without its markup, a line for each paragraph."""
    body = BLOCKS.sub("\n", page.partition("<main>")[2])
    lines = (" ".join(unescape(re.sub("<[^>]+>", "", line)).split()) for line in body.split("\n"))
    return "\n".join(line for line in lines if line)


def line_of(function: Callable[..., Any], text: str) -> str:
    """Where a text stands in a function: ``tests/situations/model.py:93 invoice``."""
    lines, first = getsourcelines(function)
    [number] = [number for number, line in enumerate(lines, first) if text in line]
    return f"{function.__module__.replace('.', '/')}.py:{number} {function.__name__}"


class Shown(Prepared):
    """What is prepared, and its pages as they are read."""

    def page(self, path: str) -> str:
        """The text of a page; whichever process answers."""
        with urlopen(f"http://127.0.0.1:{self.server.port}{path}") as answer:
            return text_of(answer.read().decode())

    def page_when(self, path: str, *wanted: str) -> str:
        """The text of a page as soon as each of some patterns is found in it."""
        text = ""

        def is_there() -> bool:
            nonlocal text
            text = self.page(path)
            return all(re.search(pattern, text) for pattern in wanted)

        assert wait_until(is_there, timeout_s=10), text
        return text


@pytest.fixture
def shown(database_url: str, sql: RawSql, start_server: StartServer) -> Iterator[Shown]:
    create_orders(sql)
    with contextlib.ExitStack() as opened:
        carrier = opened.enter_context(Carrier())
        server = start_server(
            *(*ARGUMENTS, "--pool-size", str(SLOTS)),
            url=database_url,
            environ={handlers.CARRIER: carrier.url},
            module="tests.situations",
        )
        yield Shown(server, carrier, opened)


def test_which_request_holds_the_lock_that_others_wait_for_and_at_which_line(shown: Shown):
    """Told with whom it calls meanwhile; each that waits names it, by its id."""
    shown.send("POST", "/orders/1/ship", process=0, request_id="holder-1")
    shown.page_when("/-/live", "idle in its transaction")
    for process in (0, 1):
        shown.send("PATCH", "/orders/1", process=process, body='{"state": "paid"}')

    text = shown.page_when("/-/live", "holds a lock that 2 others wait for · idle in its transaction for")

    units = text.partition("Open units of work: 3")[2]
    holder, waits = units.partition("waits for a lock")[::2]
    assert "POST /orders/{order_id}/ship holder-1" in holder
    assert f"at {line_of(handlers.book_parcel, 'fetch(')}: answer = await AsyncHTTPClient().fetch(" in holder
    assert "UPDATE orders SET state" in holder
    assert units.count("held by POST /orders/{order_id}/ship holder-1") == 2
    assert waits.count(f"at {line_of(model.lock_order, 'session.get(')}") == 2


def test_which_handler_loads_lazily_in_a_loop_and_what_to_write_instead(shown: Shown):
    receive(shown.send("POST", "/customers/1/invoices", process=1, request_id="invoice-1"))

    requests, timeline = shown.page("/-/requests"), shown.page("/-/requests/invoice-1")

    worth_a_look = requests.partition("Worth a look: 1")[2].partition("The last: ")[0]
    where = line_of(model.invoice, "order.items")
    assert "POST /customers/{customer_id}/invoices" in worth_a_look
    assert f"60 times the same SELECT, one for each row. {where}" in worth_a_look
    assert "InvoiceHandler.post" in timeline
    assert f"{where} reads Order.items, which is loaded for one row at a time." in timeline
    assert "Write select(Order).options(selectinload(Order.items))." in timeline


def test_which_request_held_a_connection_while_it_called_another_service(shown: Shown):
    """After its end as well as during it."""
    shipping = shown.send("POST", "/orders/1/ship", process=1, request_id="ship-1")
    where = f"at {line_of(handlers.book_parcel, 'fetch(')}"
    during = shown.page_when("/-/live", "idle in its transaction for", where)
    time.sleep(0.2)
    shown.carrier.let_go()
    receive(shipping)

    requests, timeline = shown.page("/-/requests"), shown.page("/-/requests/ship-1")

    assert "POST /orders/{order_id}/ship ship-1" in during
    worth_a_look = requests.partition("Worth a look: 1")[2].partition("The last: ")[0]
    assert "POST /orders/{order_id}/ship" in worth_a_look
    assert "Held for nothing for " in worth_a_look
    assert f"{line_of(model.change_order, 'session.flush()')} had a connection and ran no SQL" in timeline
    assert "while its handler awaited something else, such as another service" in timeline
    assert "Write await self.commit()." in timeline


def clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}"


def test_whether_the_pool_was_full_at_a_time_and_in_which_process(shown: Shown):
    """To the second, and how many callers waited; where it never was, since when the pages look."""
    before = shown.page("/-/live")
    began = datetime.now()  # noqa: DTZ005  # the zone of the page is that of the server, which is here
    shipping = [
        shown.send("POST", f"/orders/{number}/ship", process=number % 2) for number in range(1, 2 * SLOTS + 5)
    ]
    shown.page_when("/-/live", rf"writer {2 * SLOTS} of {2 * SLOTS} slots in use · 4 waiting")
    time.sleep(2.2)  # a sample is taken each second
    shown.carrier.let_go()
    for each in shipping:
        receive(each)
    ended = datetime.now()  # noqa: DTZ005

    text = shown.page("/-/live")

    assert re.search(r"A slot was free at each look since \d\d:\d\d:\d\d UTC", before)
    spans = re.findall(
        r"process (\d): (\d\d:\d\d:\d\d) to (\d\d:\d\d:\d\d) (UTC\S*)(?:, in .* s)?, up to (\d) waiting", text
    )
    assert {process for process, *_ in spans} == {"0", "1"}
    for _, first, last, of_zone, waiting in spans:
        assert clock(began) <= first < last <= clock(ended)
        assert of_zone == zone(time.time())
        assert waiting == "2"


def test_what_became_of_a_request_of_which_the_beginning_of_its_id_is_known(shown: Shown):
    """Whichever process had it and whichever is asked: one that failed, one that was kept, one that runs."""
    shown.send("POST", "/orders/3/ship", process=1, request_id="8a43000000000000")
    for process in (0, 1):
        failed = shown.send("POST", "/orders/1/charge", process=process, request_id="8a41c7d2f0e94b51")
        assert receive(failed).status == 500
        body = '{"state": "paid"}'
        kept = shown.send("PATCH", "/orders/2", process=process, body=body, request_id="8a42f00d")
        assert receive(kept).status == 200

    for _ in range(4):
        of_failed, of_kept = shown.page("/-/requests/8a41"), shown.page("/-/requests/8a42")
        of_open, of_all = shown.page("/-/requests/8a43"), shown.page("/-/requests/8a4")

        assert of_failed.count("POST /orders/{order_id}/charge → 500, undone") == 2
        assert "8a41c7d2f0e94b51" in of_failed
        assert "Nothing of this request was kept." in of_failed
        assert "8a42" not in of_failed
        assert of_kept.count("PATCH /orders/{order_id} → 200, kept") == 2
        assert "It has not ended: what it is doing now." in of_open
        assert all(each in of_all for each in ("8a41c7d2f0e94b51", "8a42f00d", "8a43000000000000"))
