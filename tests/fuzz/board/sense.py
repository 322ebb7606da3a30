"""Why a request may be refused that fits its schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from handlers.openapi.headers import REQUEST_HEADERS

# Rules of the data, and of what no schema says: sizes in bytes, characters that cannot be kept.
_RULES = {
    r"(/items/\d+)?/team_id|/(from|to)_team_id": ("there is no such team",),
    r"/to_team_id": ("a transfer goes from one team to another",),
    r"/items/\d+/id": ("stands in this bulk more than once",),
    r"(/items/\d+)?/s3_keys.*": (
        "should have at most 65536 bytes as compact UTF-8",
        "should not be nested more than 100 levels deep",
        "should be a finite number",
        "should not hold a NUL character",
        "should not hold half of a surrogate pair",
        "the name should not hold a NUL character",
        "the name should not hold half of a surrogate pair",
    ),
    r"/note|/name|(/items/\d+)?/bundle": ("should not hold half of a surrogate pair",),
}
_CURSORS = (
    "the cursor belongs to a list with other filters: start again without it",
    "the cursor cannot be read: take next_cursor of the page before, as it is",
)
_NO_INTEGER = "should be a valid integer"
_KEY_USED = "this Idempotency-Key was used with another body or query"


def makes_sense(problem: Mapping[str, Any], *, headers: Mapping[str, str], body: Any = None) -> bool:
    """Whether a refusal is for a rule that no schema tells.

    Args:
        problem: 400, 412 or 422, as it was answered.
        headers: what was sent.
        body: what was sent.
    """
    status, detail = problem["status"], problem["detail"]
    if status == 412:
        return "If-Match" in headers
    if status == 400:
        # schemathesis takes "0" for an If-Match that fits, whatever the pattern.
        fits = re.fullmatch(REQUEST_HEADERS["If-Match"]["schema"]["pattern"], headers.get("If-Match", "*"))
        return detail in _CURSORS or fits is None
    if detail == _KEY_USED:
        return "Idempotency-Key" in headers
    faults = problem["errors"]
    return bool(faults) and all(_is_a_rule(body, **fault) for fault in faults)


def _is_a_rule(body: Any, pointer: str, message: str) -> bool:
    if message == _NO_INTEGER:  # to a schema 3.0 is one
        value = _at(body, pointer)
        return isinstance(value, float) and value.is_integer()
    return any(re.fullmatch(at, pointer, re.DOTALL) and message in told for at, told in _RULES.items())


def _at(value: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        value = value[int(step) if isinstance(value, list) else step]
    return value
