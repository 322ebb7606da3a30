"""Bodies of requests: what each may hold, and the reader that checks it.

The models are the contract: every field strict, none unknown. They say nothing of the database; what
only it can know (a team that is missing, an id that is taken) is refused there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import date
from email.message import Message
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from tornado.web import RequestHandler

from db.board.tasks import BUNDLE_CHARS_MAX, CHANGE_ID_MAX, NewTask, TaskChange as Change
from db.board.teams import NAME_CHARS_MAX
from db.board.transfers import NOTE_CHARS_MAX
from handlers.json_api.errors import Problem
from handlers.json_api.json_text import (
    LEVELS_MAX,
    NotJson,
    Path,
    TooMuch,
    count_values,
    faults_of,
    is_unicode,
    parse,
    parse_pieces,
    pointer,
)

S3_KEYS_BYTES_MAX = 64 * 1024
FAULTS_MAX = 1000
"""How many faults are listed. A body of a few megabytes can have a million; no more are looked for."""

POINTER_CHARS_MAX = 500
"""How long the pointer of a fault is. With whole ones, each repeating the names above it, the answer to 66 KB
had 97 MB."""

NAMES_MAX = 100
"""How many fields a body may have, and an item of a bulk. Of 800,000 unknown ones, pydantic made errors for
six seconds, in one call that holds the interpreter."""

VALUES_MAX = 150_000
"""How many values a body may have: `s3_keys` has room for 33,000. As many are read in some 20 ms."""

BULK_VALUES_MAX = 500_000
"""Of a bulk: 50 for each task of the largest one. 8 MiB have room for 4,000,000, which took 190 MiB."""

INT64_MAX = 2**63 - 1
BULK_MAX = 10_000

BODY_BYTES_ON_LOOP = 64 * 1024
"""A larger one is read in a thread: this one takes some five milliseconds."""

CLAIM_MAX = 100

# The classes of characters are written so that Rust, Python and JavaScript read the same.
_ID = "^[0-9a-f]{32}$"
_NO_CONTROLS = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
_NO_NUL = "^[^\\u0000]*$"
_PATTERN_FAULTS = {
    _ID: "should be 32 lower-case hex digits",
    _NO_CONTROLS: "should have no control characters",
    _NO_NUL: "should not hold a NUL character",
}
_FAULTS = {
    "missing": "is required",
    "int_parsing_size": "is out of range",
    "extra_forbidden": "is not a field of this body",
    "model_type": "should be a JSON object",
    "string_unicode": "should not hold half of a surrogate pair",
    "too_short": "should have at least 1 item",
    "too_long": f"should have at most {BULK_MAX} items",
}

_TOO_MANY_FIELDS: tuple[Path, str] = ((), f"should have at most {NAMES_MAX} fields")


class _JsonFaults(ValueError):
    """What `faults_of` found, on its way through pydantic."""

    def __init__(self, faults: list[tuple[Path, str]]) -> None:
        super().__init__("is no JSON that can be kept")
        self.faults = faults


def _no_float(value: Any) -> Any:
    """Refuse 101.0, which is equal to a status, and is refused as any other integer."""
    if isinstance(value, float):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _date(value: Any) -> date:
    """A day as YYYY-MM-DD. `date.fromisoformat` alone takes 20200401 and 2020-W14-3 too."""
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise PydanticCustomError("date_type", "Input should be an ISO date, YYYY-MM-DD")


def _json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "Input should be a JSON object")
    faults = list(islice(faults_of(value, bytes_max=S3_KEYS_BYTES_MAX), FAULTS_MAX + 1))
    if faults:
        raise _JsonFaults(faults)
    return value


TaskId = Annotated[str, Field(pattern=_ID)]
TaskStatus = Annotated[
    Literal[101, 102, 200, 400, 99],
    BeforeValidator(_no_float),
    Field(description="101 queued, 102 running, 200 passed, 400 failed, 99 cancelled."),
]
JsonObject = Annotated[
    dict[str, Any],
    PlainValidator(_json_object),
    WithJsonSchema(
        {
            "type": "object",
            "description": "Any JSON object, kept as it is: up to "
            f"{S3_KEYS_BYTES_MAX} bytes as compact UTF-8 and {LEVELS_MAX} levels, without NUL, half "
            "surrogate pairs and numbers that are not finite.",
        }
    ),
]
Bundle = Annotated[str, Field(min_length=1, max_length=BUNDLE_CHARS_MAX, pattern=_NO_CONTROLS)]
Granularity = Literal["hourly", "daily", "weekly", "monthly"]
Day = Annotated[date, BeforeValidator(_date)]
ChangeId = Annotated[int, Field(ge=0, le=CHANGE_ID_MAX)]
TeamId = Annotated[int, Field(ge=1, le=INT64_MAX)]
TeamName = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX, pattern=_NO_CONTROLS)]
Note = Annotated[str, Field(max_length=NOTE_CHARS_MAX, pattern=_NO_NUL)]


def _left_out() -> Any:
    """A field that may be left out, and is not null: a default that is never looked at, and in no schema."""
    return Field(default_factory=lambda: None)


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


class TaskNew(Body):
    """`POST /tasks`."""

    bundle: Bundle
    granularity: Granularity
    target_date: Day
    change_id: ChangeId
    id: TaskId = _left_out()
    task_status: TaskStatus = _left_out()
    s3_keys: JsonObject = _left_out()
    team_id: TeamId | None = None

    def new(self) -> NewTask:
        return cast(NewTask, self.given())


class TasksNew(Body):
    """`POST /tasks/bulk`."""

    values_max = BULK_VALUES_MAX

    items: Annotated[list[TaskNew], Field(min_length=1, max_length=BULK_MAX)]
    _new: list[NewTask] = PrivateAttr(default_factory=list)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As `Body.read`, an item at a time: the interpreter is given up in between, and what is behind the
        last fault that is told is not read. What `new` returns is all that is kept of the items: models are
        three objects each, which the garbage collector would go through.
        """
        new: list[NewTask] = []
        faults: list[tuple[Path, str]] = []
        fields: dict[str, Any] = {}
        ids: set[str] = set()
        for path, value in parse_pieces(body, "items"):
            if not path:
                return check(cls, value)
            if len(path) == 1:
                fields[str(path[0])] = value
                if len(fields) > NAMES_MAX:
                    raise refusal([_TOO_MANY_FIELDS])
                continue
            if path[1] == BULK_MAX:
                faults.append((path[:1], _FAULTS["too_long"]))
                break
            item, found = _examined(TaskNew, value)
            faults += [((*path, *steps), message) for steps, message in found]
            if item is not None:
                new.append(item.new())
            task_id = value.get("id") if isinstance(value, dict) else None
            if isinstance(task_id, str):
                if task_id in ids:  # it could be created but once
                    faults.append(((*path, "id"), "stands in this bulk more than once"))
                ids.add(task_id)
            if len(faults) > FAULTS_MAX:
                break
        if not new and not faults:
            return check(cls, fields)
        faults += [((name,), _FAULTS["extra_forbidden"]) for name in fields]
        if faults:
            raise refusal(faults)
        bulk = cls.model_construct(items=[])
        bulk._new = new
        return bulk  # type: ignore[return-value]  # pydantic's plugin does not know Self

    def new(self) -> list[NewTask]:
        return self._new


class Claim(Body):
    """`POST /tasks/claim`."""

    limit: Annotated[int, Field(ge=1, le=CLAIM_MAX)]
    team_id: TeamId | None = None


class TaskChange(Body):
    """`PATCH /tasks/{id}`."""

    task_status: TaskStatus = _left_out()
    s3_keys: JsonObject = _left_out()
    bundle: Bundle = _left_out()
    granularity: Granularity = _left_out()
    target_date: Day = _left_out()
    change_id: ChangeId = _left_out()

    def change(self) -> Change:
        return cast(Change, self.given())


class TransferNew(Body):
    """`POST /tasks/{id}/transfer`. Both teams have to be said, null for no team."""

    from_team_id: TeamId | None
    to_team_id: TeamId | None
    note: Note | None = None


class TeamNew(Body):
    """`POST /teams`."""

    name: TeamName


class TeamChange(Body):
    """`PATCH /teams/{id}`."""

    name: TeamName = _left_out()


AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(handler: RequestHandler, model: type[AnyBody]) -> AnyBody:
    """The body of a handler's request, checked; a large one in a thread, since the loop has others to serve.

    Raises:
        Problem: 415 for another content type than JSON, 400 for what is no JSON, 413 for more values than the
            model takes, 422 with every fault.
    """
    check_content_type(handler)
    body = handler.request.body
    if len(body) > BODY_BYTES_ON_LOOP:
        return await asyncio.to_thread(_checked, model, body)
    return _checked(model, body)


def _checked(model: type[AnyBody], body: bytes) -> AnyBody:
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
    """See to it that the body says it is JSON in UTF-8, as it is; one that says nothing is taken for it.

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


def check(model: type[AnyBody], value: Any) -> AnyBody:
    """A parsed value as a body. Needs no handler, and may run off the loop.

    Raises:
        Problem: 422, with every fault and a JSON pointer to each.
    """
    body, faults = _examined(model, value)
    if body is None:
        raise refusal(faults)
    return body


def _examined(model: type[AnyBody], value: Any) -> tuple[AnyBody | None, list[tuple[Path, str]]]:
    """A parsed value as a body, or none and what is wrong with it."""
    names = list(value) if isinstance(value, dict) else []
    if len(names) > NAMES_MAX:
        return None, [_TOO_MANY_FIELDS]
    # pydantic stops at the first name that is no Unicode, and has no path for it.
    unreadable = [name for name in names if not is_unicode(name)]
    faults: list[tuple[Path, str]] = [((name,), _FAULTS["extra_forbidden"]) for name in unreadable]
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
    if isinstance(cause, _JsonFaults):
        yield from (((*detail["loc"], *path), message) for path, message in cause.faults)
        return
    sentence = _FAULTS.get(detail["type"]) or _PATTERN_FAULTS.get(context.get("pattern", ""))
    yield detail["loc"], sentence or detail["msg"].removeprefix("Input ").removeprefix("String ")
