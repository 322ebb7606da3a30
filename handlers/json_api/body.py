"""The body of a request: the base of its models, and the reader that checks one.

The models are the contract: every field strict, none unknown. They are checked without the database; what
only that can know (a team that is missing, an id that is taken) is refused there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from email.message import Message
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from tornado.web import RequestHandler

from handlers.json_api.errors import FAULTS_MAX
from handlers.json_api.fields import PATTERN_FAULTS, JsonFaults
from handlers.json_api.json_text import NotJson, Path, TooMuch, count_values, is_unicode, parse, pointer
from handlers.lifecycle.errors import Problem

POINTER_CHARS_MAX = 500
"""How long the pointer of a fault is. With whole ones, each repeating the names above it, the answer to 66 KB
had 97 MB."""

NAMES_MAX = 100
"""How many fields a body may have, and an item of a bulk. Of 800,000 unknown ones, pydantic made errors for
six seconds, in one call that holds the interpreter."""

VALUES_MAX = 150_000
"""How many values a body may have. As many are read in some 20 ms."""

BODY_BYTES_ON_LOOP = 64 * 1024
"""A larger one is read in a thread: this one takes some five milliseconds."""

UNKNOWN_FIELD = "is not a field of this body"
TOO_MANY_FIELDS: tuple[Path, str] = ((), f"should have at most {NAMES_MAX} fields")

_FAULTS = {
    "missing": "is required",
    "int_parsing_size": "is out of range",
    "extra_forbidden": UNKNOWN_FIELD,
    "model_type": "should be a JSON object",
    "string_unicode": "should not hold half of a surrogate pair",
}


class Body(BaseModel):
    """The body of one request. Lives as long as the request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    values_max: ClassVar[int] = VALUES_MAX
    """How many values it may have, those inside of others too. More are refused before any is read."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """What was sent, checked. Needs no handler, and may run off the loop.

        Raises:
            NotJson, TooMuch: see `parse`.
            Problem: 422, with every fault.
        """
        return check(cls, parse(body))

    def given(self) -> dict[str, Any]:
        """The fields that the client sent, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(handler: RequestHandler, model: type[BodyT]) -> BodyT:
    """The body of a handler's request, checked; a large one in a thread, so that the event loop stays free.

    Raises:
        Problem: 415 for another content type than JSON, 400 for what is no JSON, 413 for more values than the
            model takes, 422 with every fault.
    """
    check_content_type(handler)
    body = handler.request.body
    if len(body) > BODY_BYTES_ON_LOOP:
        return await asyncio.to_thread(_checked, model, body)
    return _checked(model, body)


def _checked(model: type[BodyT], body: bytes) -> BodyT:
    most = model.values_max
    try:
        if len(body) > most and count_values(body, most) > most:
            raise TooMuch(f"a body here has at most {most} values")
        return model.read(body)
    except NotJson as error:
        raise Problem(400, str(error)) from None
    except TooMuch as error:
        raise Problem(413, str(error)) from None


def check_content_type(handler: RequestHandler) -> None:
    """Refuse a body whose headers name anything but plain JSON in UTF-8. Without any it is taken for that.

    Raises:
        Problem: 415.
    """
    headers = handler.request.headers
    said = headers.get("Content-Type") or "application/json"
    if said == "application/json" and "Content-Encoding" not in headers:
        return
    content = Message()
    content["Content-Type"] = said
    if content.get_content_type() != "application/json":
        raise Problem(415, "the content type of a body here is application/json")
    if str(content.get_param("charset", "utf-8")).lower() not in ("utf-8", "utf8"):
        raise Problem(415, "the charset of a body here is utf-8")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "a body here has no content encoding")


def check(model: type[BodyT], value: Any) -> BodyT:
    """A parsed value as a body. Needs no handler, and may run off the loop.

    Raises:
        Problem: 422, with every fault and a JSON pointer to each.
    """
    body, faults = examined(model, value)
    if body is None:
        raise refusal(faults)
    return body


def examined(model: type[BodyT], value: Any) -> tuple[BodyT | None, list[tuple[Path, str]]]:
    """A parsed value as a body, or none and what is wrong with it."""
    names = list(value) if isinstance(value, dict) else []
    if len(names) > NAMES_MAX:
        return None, [TOO_MANY_FIELDS]
    # pydantic stops at the first name that is no Unicode, and has no path for it.
    unreadable = [name for name in names if not is_unicode(name)]
    faults: list[tuple[Path, str]] = [((name,), UNKNOWN_FIELD) for name in unreadable]
    if unreadable:
        value = {name: field for name, field in value.items() if name not in unreadable}
    try:
        body = model.model_validate(value)
    except ValidationError as error:
        return None, faults + faults_in(error)
    return (None, faults) if faults else (body, faults)


def refusal(faults: list[tuple[Path, str]]) -> Problem:
    """The answer to a body with faults."""
    count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
    if len(faults) > FAULTS_MAX:  # there may be others, which were not looked for
        count = f"more than {FAULTS_MAX} faults, the first {FAULTS_MAX} are listed"
    errors = [_told(path, message) for path, message in faults[:FAULTS_MAX]]
    return Problem(422, f"the body has {count}", errors=errors)


def _told(path: Path, message: str) -> dict[str, str]:
    at = pointer(path, POINTER_CHARS_MAX)
    if at.count("/") < len(path):
        message = f"in it, below names too long to be told: {message}"
    return {"pointer": at, "message": message}


def faults_in(error: ValidationError) -> list[tuple[Path, str]]:
    """What a model found: path and sentence of each fault. Nothing of what was sent is quoted."""
    details = error.errors(include_url=False, include_input=False)
    return [fault for detail in details for fault in _faults_of_one(detail)]


def _faults_of_one(detail: ErrorDetails) -> Iterator[tuple[Path, str]]:
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, JsonFaults):
        yield from (((*detail["loc"], *path), message) for path, message in cause.faults)
        return
    sentence = _FAULTS.get(detail["type"]) or PATTERN_FAULTS.get(context.get("pattern", ""))
    if sentence is None:  # pydantic's own: "List should have at most 3 items after validation, not 4"
        sentence = detail["msg"].partition(" after validation")[0]
        for subject in ("Input ", "String ", "List "):
            sentence = sentence.removeprefix(subject)
    yield detail["loc"], sentence
