"""When the document of an application is made."""

from __future__ import annotations

import threading

import pytest

from handlers.openapi.document import Document


@pytest.mark.gen_test
async def test_the_document_is_made_once_by_the_first_request_for_it_and_delays_no_other():
    threads = []

    def make() -> dict[str, object]:
        threads.append(threading.current_thread())
        return {"openapi": "3.1.1"}

    document = Document(make)
    assert threads == []

    first, second = await document.made(), await document.made()

    assert first is second is document
    assert document.body == b'{"openapi":"3.1.1"}'
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
