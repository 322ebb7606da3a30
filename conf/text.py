"""The text of variables and flags, and the values that it stands for."""

from __future__ import annotations

import json
from typing import Annotated, Any, cast
from urllib.parse import parse_qs

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from conf.masks import mask_text
from conf.names import Name

# pydantic's own messages are for programmers ("unable to parse string as an integer").
_WORDS = {
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "dict_type": "should be a table",
    "finite_number": "should be a finite number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_parsing_size": "should be a whole number of fewer digits",
    "int_type": "should be a whole number",
    "string_type": "should be text",
    "string_unicode": "should be text in UTF-8",
}


def from_text(name: Name, text: str) -> Any:
    """The value that a text stands for, of the setting's own type and range.

    Raises:
        ValueError: it stands for none. The message shows the text only where the setting is no secret.
    """
    if text.lower() == "none" and name.optional and str not in name.types:
        return None
    if name.table:
        return _table(name, text)
    field = name.field
    # The field's own range and spelling; its annotation alone has lost them.
    annotated: Any = (
        cast(Any, Annotated)[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    )
    try:
        return TypeAdapter(annotated).validate_strings(text)
    except ValidationError as exc:
        raise ValueError(" and ".join(reason(error, name) for error in exc.errors())) from None


def reason(error: ErrorDetails, name: Name) -> str:
    """What is wrong with a value, in a few words, and the value itself where it may be shown."""
    if error["type"] == "value_error":  # from a validator of ours, whose message may be shown
        return str(error["ctx"]["error"])
    message = _WORDS.get(error["type"]) or error["msg"].replace("Input should", "should").replace(
        "String", "text"
    )
    # A table's entries may be passwords, whatever their names; text in a wrong place may hold a URL.
    if name.secret or name.table:
        return message
    value = mask_text(repr(error["input"]))
    return f"{message}, not {value if len(value) <= 60 else value[:57] + '...'}"


def _table(name: Name, text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        try:
            return cast(dict[str, Any], json.loads(text))
        except (
            ValueError,
            RecursionError,
        ):  # without json's message, which would point into a text that is not shown
            raise ValueError("malformed JSON object") from None
    if name.path == "database.query":
        try:
            found = parse_qs(text, keep_blank_values=True, strict_parsing=True)
        except ValueError:
            raise ValueError('should be "name=value&name=value", or a JSON object') from None
        # Twice the same name is a list, as in a URL.
        return {key: values if len(values) > 1 else values[0] for key, values in found.items()}
    raise ValueError('should be a JSON object: {"name": "value"}')
