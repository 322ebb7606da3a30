"""Bodies of requests as they are read and checked, whatever model an application has for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import Field
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, RequestHandler

from handlers.json_api import body as bodies
from handlers.json_api.body import Body, check, read_body
from handlers.lifecycle.errors import Problem
from tests.service.handlers import ShelfNew


class Loan(Body):
    """A body with a field of each kind."""

    days: int
    to: str
    pages: list[int] = Field(default_factory=list)


LOAN: dict[str, Any] = {"days": 3, "to": "a reader"}


def faults(value: Any) -> dict[str, str]:
    """What is wrong with a loan: message by pointer."""
    with pytest.raises(Problem) as refused:
        check(Loan, value)
    assert refused.value.status_code == 422
    assert refused.value.errors
    return {fault["pointer"]: fault["message"] for fault in refused.value.errors}


def handler(body: bytes, **headers: str) -> RequestHandler:
    """A handler of a request that was not sent."""
    named = HTTPHeaders({"Host": "here"} | {name.replace("_", "-"): value for name, value in headers.items()})

    class Connection:
        def set_close_callback(self, callback: object) -> None: ...

    line = RequestStartLine("POST", "/", "HTTP/1.1")
    connection: Any = Connection()
    request = HTTPServerRequest(start_line=line, headers=named, body=body, connection=connection)
    return RequestHandler(Application(), request)


def test_a_body_is_what_its_model_says():
    assert check(Loan, LOAN).given() == LOAN


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [LOAN], [[]]], ids=repr)
def test_a_body_is_an_object(value: Any):
    assert faults(value) == {"": "should be a JSON object"}


def test_every_fault_is_named_at_once():
    assert faults({"days": True, "pages": [1, "2"], "a/b": 1, "\ud800": 2}) == {
        "/to": "is required",
        "/days": "should be a valid integer",
        "/pages/1": "should be a valid integer",
        "/a~1b": "is not a field of this body",
        "/?": "is not a field of this body",
    }


def test_a_body_of_a_million_unknown_fields_is_not_looked_at():
    assert faults(dict.fromkeys(map(str, range(1_000_000)))) == {"": "should have at most 100 fields"}


def test_a_thousand_faults_are_listed_and_that_there_are_more_is_said():
    with pytest.raises(Problem, match="more than 1000 faults, the first 1000 are listed") as refused:
        check(Loan, LOAN | {"pages": ["x"] * 1001})

    assert len(refused.value.errors or ()) == 1000


def test_a_body_of_too_many_values_is_413_and_is_not_read(monkeypatch: pytest.MonkeyPatch):
    """Its object, its two fields, its array, and what is in that."""
    monkeypatch.setattr(Loan, "values_max", 54)

    def loan(pages: int) -> RequestHandler:
        return handler(json.dumps(LOAN | {"pages": [1] * pages}).encode())

    assert len(asyncio.run(read_body(loan(50), Loan)).pages) == 50
    monkeypatch.setattr(bodies, "parse", lambda body: pytest.fail("it was read"))
    with pytest.raises(Problem, match="a body here has at most 54 values") as refused:
        asyncio.run(read_body(loan(52), Loan))

    assert refused.value.status_code == 413


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
    ],
)
def test_json_is_read_and_so_is_what_says_nothing(content_type: str):
    assert asyncio.run(read_body(handler(b'{"name": "a"}', Content_Type=content_type), ShelfNew)).name == "a"
    assert asyncio.run(read_body(handler(b'{"name": "a"}'), ShelfNew)).name == "a"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/merge-patch+json",
        "json",
        ";",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=\xff",
        "application/json, application/json",
    ],
)
def test_another_content_type_is_415(content_type: str):
    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(handler(b'{"name": "a"}', Content_Type=content_type), ShelfNew))

    assert refused.value.status_code == 415


def test_an_encoded_body_is_415():
    """Tornado takes the header away where it has decoded the body; here it has not."""
    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(handler(b"\x1f\x8b", Content_Encoding="gzip"), ShelfNew))

    assert refused.value.status_code == 415


def test_what_is_no_json_is_400():
    with pytest.raises(Problem, match="the body is not UTF-8 at byte 1") as refused:
        asyncio.run(read_body(handler(b'"\xff"'), ShelfNew))

    assert refused.value.status_code == 400
