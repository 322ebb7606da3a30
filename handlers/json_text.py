"""JSON as it arrives: bytes that anybody may have sent, read without trust.

Python's reader takes what is no JSON, and much that nobody downstream can keep: ``NaN``, a name
twice, half a surrogate pair, 1e400.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import Any, NoReturn

LEVELS_MAX = 100
"""How deep a value may be nested. Python's own writer gives up below 1,000 levels, depending on where it is
called from; common readers at 64 (.NET) to 200 (pydantic): https://datatracker.ietf.org/doc/html/rfc8259#section-9"""

Path = tuple[str | int, ...]
_Link = tuple[Any, ...]  # (parent's link, name or index): a path that costs nothing until it is asked for


class NotJson(ValueError):
    """These bytes are no JSON text in UTF-8. The message is a sentence for a client."""


def parse(body: bytes) -> Any:
    """The value that a JSON text stands for.

    Numbers that no double can hold become infinite where they are written as floats; `faults_of` finds
    them, and half surrogate pairs.

    Raises:
        NotJson: it stands for none, or for one thing twice.
    """
    if not body:
        raise NotJson("the body is empty, a JSON object is expected")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise NotJson("the body begins with a byte order mark, which is no part of JSON")
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise NotJson(
            f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise NotJson("the body is nested too deeply to be read") from None
    except NotJson:
        raise
    except ValueError:  # sys.get_int_max_str_digits()
        raise NotJson("the body holds a number with too many digits to be read") from None


def pointer(path: Path) -> str:
    """A path as a JSON pointer. https://www.rfc-editor.org/rfc/rfc6901"""
    return "".join(f"/{_printable(str(step)).replace('~', '~0').replace('/', '~1')}" for step in path)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def faults_of(value: Any, *, bytes_max: int) -> Iterator[tuple[Path, str]]:
    """What keeps a parsed value from being stored and given back as it is: path and sentence of each fault.

    Args:
        bytes_max: how long it may be as compact UTF-8. Nothing is looked at beyond that.
    """
    size = 0
    todo: list[tuple[_Link, int, Any]] = [((), 0, value)]
    while todo:
        link, level, value = todo.pop()
        if isinstance(value, str):
            size += _size(value)
            yield from ((_path(link), fault) for fault in _text_faults(value))
        elif isinstance(value, dict | list):
            if level == LEVELS_MAX:
                yield _path(link), f"should not be nested more than {LEVELS_MAX} levels deep"
                continue
            size += 2 + max(len(value) - 1, 0)
            if size > bytes_max:  # before its children are put on the list
                break
            if isinstance(value, dict):
                for name in value:
                    size += _size(name) + 1
                    yield from (((*_path(link), name), f"the name {fault}") for fault in _text_faults(name))
                children: Any = value.items()
            else:
                children = enumerate(value)
            todo += [((link, step), level + 1, child) for step, child in children]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not _is_finite(value):
                yield _path(link), "should be a finite number"
            else:
                size += len(repr(value))
        else:
            size += 5 if value is False else 4  # true, null
        if size > bytes_max:
            break
    if size > bytes_max:
        yield (), f"should have at most {bytes_max} bytes as compact UTF-8"


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of pairs, whose names are all different: of two values nobody knows which was meant."""
    names = dict(pairs)
    if len(names) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise NotJson(f"the name {_printable(twice[:64])!r} stands twice in one object")
    return names


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"the body is not JSON: {name} is no JSON number")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no double can hold: the same number as 1e400
        return False


def _text_faults(text: str) -> Iterator[str]:
    if "\0" in text:
        yield "should not hold a NUL character"
    if not is_unicode(text):
        yield "should not hold half of a surrogate pair"


def _size(text: str) -> int:
    return len(encode_basestring(text).encode("utf-8", "surrogatepass"))


def _path(link: _Link) -> Path:
    steps: list[str | int] = []
    while link:
        link, step = link
        steps.append(step)
    return tuple(reversed(steps))


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
