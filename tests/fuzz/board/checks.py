"""What schemathesis sends and checks besides its own, loaded by its process: ``SCHEMATHESIS_HOOKS``."""

from __future__ import annotations

import json
import re
from typing import Any

import schemathesis

from tests.fixtures.board.contract import faults_in
from tests.fuzz.board.sense import makes_sense


@schemathesis.hook
def before_call(ctx: Any, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Send a header's value as text: 4.32 now and then hands integers on, which its own client refuses."""
    for name, value in (case.headers or {}).items():
        case.headers[name] = value if isinstance(value, str) else json.dumps(value)


@schemathesis.check
def as_described(ctx: Any, response: schemathesis.Response, case: schemathesis.Case[Any]) -> None:
    """Every answer is as ``/openapi.json`` has it, by our own reading: headers and the export's lines too."""
    headers = {name.title(): values[0] for name, values in response.headers.items()}
    # Some names are not written as title() does.
    headers |= {"X-Request-Id": headers.get("X-Request-Id", ""), "ETag": headers.get("Etag", "")}
    headers = {name: value for name, value in headers.items() if value}
    body = response.content or b""
    url = re.sub("^[a-z]+://[^/]+", "", str(response.request.url))
    assert faults_in(case.method, url, response.status_code, headers, body) == []


@schemathesis.check
def refused_for_a_reason(ctx: Any, response: schemathesis.Response, case: schemathesis.Case[Any]) -> None:
    """What fits its schema is refused only for what a schema cannot say. The answer to HEAD does not tell."""
    if response.status_code not in (400, 412, 422) or case.method == "HEAD" or not is_positive(case):
        return
    sent = {name: str(value) for name, value in (case.headers or {}).items()}
    problem = json.loads(response.content or b"")
    assert makes_sense(problem, headers=sent, body=case.body), f"{problem['detail']}: {problem.get('errors')}"


def is_positive(case: schemathesis.Case[Any]) -> bool:
    """Whether all that was sent fits its schema."""
    return case.meta is not None and all(
        component.mode.is_positive for component in case.meta.components.values()
    )
