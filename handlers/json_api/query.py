"""Query arguments: the base of their models, and the reader that checks them."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from tornado.web import RequestHandler

from handlers.json_api.body import faults_in
from handlers.lifecycle.errors import Problem

FAULTS_MAX = 20
"""How many faults are listed. Tornado takes a thousand arguments."""


def _number(value: Any) -> int:
    """An integer as digits. Python's own reader takes " 5", "5_0" and digits of other scripts too."""
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,100}", value):
        return int(value)
    raise PydanticCustomError("int_type", "Input should be a valid integer")


Number = BeforeValidator(_number)
"""Of a field that is an integer."""


class Query(BaseModel):
    """The query arguments of one request. Lives as long as the request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


AnyQuery = TypeVar("AnyQuery", bound=Query)


def read_query(handler: RequestHandler, model: type[AnyQuery]) -> AnyQuery:
    """The query arguments of a handler's request, checked: none unknown, none twice.

    Raises:
        Problem: 400, with every fault in its detail.
    """
    # Not get_query_argument: it cuts white space off, and turns control characters into spaces.
    arguments: dict[str, Any] = {}
    faults: list[str] = []
    for name, values in handler.request.query_arguments.items():
        if name not in model.model_fields:
            faults.append(f"{_shown(name)}: there is no such argument")
            continue
        try:
            arguments[name] = values[0].decode("utf-8")
        except UnicodeDecodeError:
            faults.append(f"{name}: is not UTF-8")
        if len(values) > 1:
            faults.append(f"{name}: is given {len(values)} times")
    try:
        query = model.model_validate(arguments)
    except ValidationError as error:
        faults += [f"{path[0]}: {message}" for path, message in faults_in(error)]
    else:
        if not faults:
            return query
    more = f"; and {len(faults) - FAULTS_MAX} more" if len(faults) > FAULTS_MAX else ""
    raise Problem(400, "query arguments are wrong: " + "; ".join(faults[:FAULTS_MAX]) + more)


def _shown(name: str) -> str:
    """An argument's name as a sentence may have it. Tornado reads names as Latin-1."""
    return name.encode("latin-1").decode("utf-8", "replace")[:64] or '""'
