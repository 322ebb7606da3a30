"""Types of fields, for the models of requests and responses of any resource."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from handlers.json_api.errors import FAULTS_MAX
from handlers.json_api.json_text import LEVELS_MAX, Path, faults_of

INT64_MAX = 2**63 - 1

HEX_ID_GROUP = "([0-9a-f]{32})"
"""A `HexId` in a route. A path with anything else matches no route, and is not found."""

SERIAL_ID_GROUP = "([1-9][0-9]{0,17})"
"""A `SerialId` in a route. Below 2**63, so that it fits every database's integer."""

SERIAL_ID_MAX = 10**18 - 1
"""The largest that `SERIAL_ID_GROUP` matches."""

# The classes of characters are written so that Rust, Python and JavaScript read the same.
HEX_ID = "^[0-9a-f]{32}$"
NO_CONTROLS = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
NO_NUL = "^[^\\u0000]*$"

PATTERN_FAULTS: Mapping[str, str] = MappingProxyType(
    {
        HEX_ID: "should be 32 lower-case hex digits",
        NO_CONTROLS: "should have no control characters",
        NO_NUL: "should not hold a NUL character",
    }
)
"""What is wrong with a text that does not match a pattern. For others pydantic has its own sentence."""

_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z$"
_DAY = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def _date(value: Any) -> date:
    """A day as YYYY-MM-DD. `date.fromisoformat` alone takes 20200401 and 2020-W14-3 too."""
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise PydanticCustomError("date_type", "Input should be an ISO date, YYYY-MM-DD")


def _no_float(value: Any) -> Any:
    if isinstance(value, float):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


NoFloat = BeforeValidator(_no_float)
"""Of a Literal of integers: refuses 101.0, which is equal to 101, as any other integer field does."""

HexId = Annotated[str, Field(pattern=HEX_ID)]
"""An id as `db.base.new_id` makes it."""

SerialId = Annotated[int, Field(ge=1, le=INT64_MAX)]
"""An id that the database has counted."""

Day = Annotated[date, BeforeValidator(_date)]
"""A date in a request."""

DayText = Annotated[str, Field(pattern=_DAY, json_schema_extra={"format": "date"})]
"""A date in a response."""

Moment = Annotated[
    str, Field(pattern=_MOMENT, description="A moment in UTC.", json_schema_extra={"format": "date-time"})
]
"""A moment in a response."""


def left_out() -> Any:
    """A field that may be left out, and is not null: a default that is never looked at, and in no schema."""
    return Field(default_factory=lambda: None)


class JsonFaults(ValueError):
    """Why a JSON object cannot be stored, on its way through pydantic: path and sentence of each fault."""

    def __init__(self, faults: list[tuple[Path, str]]) -> None:
        super().__init__("is no JSON that can be kept")
        self.faults = faults


@dataclass(frozen=True)
class StoredJson:
    """Marks a field that takes any JSON object which can be stored and given back as it is.

    ``Annotated[dict[str, Any], StoredJson(bytes_max=64 * 1024)]``

    Args:
        bytes_max: how long the object may be as compact UTF-8.
    """

    bytes_max: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "description": f"Any JSON object, kept as it is: up to {self.bytes_max} bytes as compact UTF-8 "
            f"and {LEVELS_MAX} levels, without NUL, half surrogate pairs and numbers that are not finite.",
        }

    def _checked(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "Input should be a JSON object")
        faults = list(islice(faults_of(value, bytes_max=self.bytes_max), FAULTS_MAX + 1))
        if faults:
            raise JsonFaults(faults)
        return value
