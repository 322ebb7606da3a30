"""JSON as it arrives: bytes of any client, read without trust.

Python's reader takes what is no JSON, and much that no database can keep: ``NaN``, a name twice, half a
surrogate pair, 1e400.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import Any, NoReturn

LEVELS_MAX = 100
"""How deep a value may be nested. Python's own writer fails below 1,000 levels, depending on where it is
called from; common readers at 64 (.NET) to 200 (pydantic): https://datatracker.ietf.org/doc/html/rfc8259#section-9"""

Path = tuple[str | int, ...]
_Link = tuple[Any, ...]  # (parent's link, name or index): a path that costs nothing until it is needed


PIECE_CHARS_MAX = 1024 * 1024
"""How long a piece of `parse_pieces` may be. Numbers of 4,300 digits take longest: some 15 ms."""

_SCANNED_BYTES = 64 * 1024
_TOO_DEEP = "the body is nested too deeply to be read"
_TOO_MANY_DIGITS = "the body holds a number with too many digits to be read"
_BACKSLASHES = re.compile(rb"\\*")
_SPACE = re.compile(r"[ \t\n\r]*")


class NotJson(ValueError):
    """These bytes are no JSON text in UTF-8. The message is a sentence for a client."""


class TooMuch(ValueError):
    """More than is read of one body. The message is a sentence for a client."""


def parse(body: bytes) -> Any:
    """The value that a JSON text stands for.

    Numbers that no double can hold become infinite where they are written as floats; `faults_of` finds
    them, and half surrogate pairs.

    Raises:
        NotJson: it stands for none, or for one thing twice.
    """
    text = _text_of(body)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, text, error.pos) from None
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    except NotJson:
        raise
    except ValueError:  # sys.get_int_max_str_digits()
        raise NotJson(_TOO_MANY_DIGITS) from None


def parse_pieces(body: bytes, split: str) -> Iterator[tuple[Path, Any]]:
    """An object's fields one after the other, and where the field ``split`` is an array, its items likewise.

    The interpreter is released between two of them, which `parse` does not do within a large value; no more
    of the text is read than the caller asks for.

    Yields:
        Path and value of each piece. Where ``split`` is an empty array, or none, it is one piece; so is, with
        an empty path, what is no object.

    Raises:
        NotJson: as `parse`.
        TooMuch: a piece is longer than `PIECE_CHARS_MAX`.
    """
    return _Pieces(_text_of(body), split).read()


def count_values(body: bytes, enough: int) -> int:
    """How many values a JSON text holds, at most. Beyond ``enough`` it is not counted to the end.

    Each value but the first stands behind an opening bracket or a comma. All of these are counted, and only
    where they are too many, those that stand in no string.
    """
    count = 1 + _count(body)
    if count <= enough:
        return count
    count = 1
    for part in _outside_of_strings(body):
        count += _count(part)
        if count > enough:
            break
    return count


def pointer(path: Path, chars_max: int | None = None) -> str:
    """A path as a JSON pointer. https://www.rfc-editor.org/rfc/rfc6901

    Args:
        chars_max: where it would be longer, it points to what is nearest above, and is not.
    """
    text = ""
    for step in path:
        name = str(step)
        if chars_max is not None and len(name) > chars_max:
            break
        longer = f"{text}/{_printable(name).replace('~', '~0').replace('/', '~1')}"
        if chars_max is not None and len(longer) > chars_max:
            break
        text = longer
    return text


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


def _text_of(body: bytes) -> str:
    if not body:
        raise NotJson("the body is empty, a JSON object is expected")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise NotJson("the body begins with a byte order mark, which is no part of JSON")
    return text


def _not_json(reason: str, text: str, at: int) -> NotJson:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return NotJson(f"the body is not JSON: {reason} (line {line}, column {column})")


def _count(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _outside_of_strings(body: bytes) -> Iterator[bytes]:
    """What stands between the strings of a JSON text, in parts; behind a fault of it, anything."""
    at, inside = 0, False
    while at < len(body):
        end = at + _SCANNED_BYTES
        if body[end - 1 : end] == b"\\" and (run := _BACKSLASHES.match(body, end)):
            end = run.end() + 1  # what is escaped belongs to its backslash
        part = body[at:end].replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"')
        yield b"".join(pieces[inside::2])
        inside ^= len(pieces) % 2 == 0
        at = end


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of pairs, whose names are all different: of two values it is unknown which was meant."""
    names = dict(pairs)
    if len(names) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise NotJson(_stands_twice(twice))
    return names


def _stands_twice(name: str) -> str:
    return f"the name {_printable(name[:64])!r} stands twice in one object"


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"the body is not JSON: {name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_constant)


class _Pieces:
    """Reads one text. Lives as long as the caller of `parse_pieces` asks for more.

    A value is read by a call that returns when all of it has been read, whatever that takes. So it is
    given a window of the text: a value that starts in the first half of it, and is no longer than that
    half, is in it. A window is cut anew where a value would start in the second half.
    """

    def __init__(self, text: str, split: str) -> None:
        self._text = text
        self._split = split
        self._at = 0
        self._from = 0
        self._window = text[: 2 * PIECE_CHARS_MAX]

    def read(self) -> Iterator[tuple[Path, Any]]:
        """See `parse_pieces`."""
        if self._next() == "{":
            yield from self._fields()
        else:
            yield (), self._value()
        if self._next() != "":
            raise self._fault("Extra data")

    def _fields(self) -> Iterator[tuple[Path, Any]]:
        self._at += 1
        names: set[str] = set()
        while not self._follows("}") if not names else self._goes_on("}"):
            self._require('"', "Expecting property name enclosed in double quotes")
            name = self._value()
            if name in names:
                raise NotJson(_stands_twice(name))
            names.add(name)
            self._expect(":", "Expecting ':' delimiter")
            if name == self._split and self._follows("["):
                yield from self._items(name)
            else:
                yield (name,), self._value()

    def _items(self, name: str) -> Iterator[tuple[Path, Any]]:
        number = 0
        while not self._follows("]") if not number else self._goes_on("]"):
            yield (name, number), self._value()
            number += 1
        if not number:
            yield (name,), []

    def _goes_on(self, end: str) -> bool:
        """Whether another one follows: a comma, else the end."""
        if self._follows(end):
            return False
        self._expect(",", "Expecting ',' delimiter")
        return True

    def _follows(self, char: str) -> bool:
        if self._next() != char:
            return False
        self._at += 1
        return True

    def _require(self, char: str, reason: str) -> None:
        if self._next() != char:
            raise self._fault(reason)

    def _expect(self, char: str, reason: str) -> None:
        self._require(char, reason)
        self._at += 1

    def _next(self) -> str:
        """The next character that is no white space; none at the end."""
        if space := _SPACE.match(self._text, self._at):
            self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        self._next()
        if self._at - self._from >= PIECE_CHARS_MAX:
            self._from = self._at
            self._window = self._text[self._at : self._at + 2 * PIECE_CHARS_MAX]
        start = self._at - self._from
        try:
            value, end = _DECODER.raw_decode(self._window, start)
        except json.JSONDecodeError as error:
            if self._is_cut and (error.msg in _UNENDED or error.pos > len(self._window) - _ESCAPE_CHARS):
                raise self._too_long() from None
            raise _not_json(error.msg, self._text, self._from + error.pos) from None
        except RecursionError:
            raise NotJson(_TOO_DEEP) from None
        except NotJson:
            raise
        except ValueError:  # sys.get_int_max_str_digits()
            raise NotJson(_TOO_MANY_DIGITS) from None
        if end - start > PIECE_CHARS_MAX:
            raise self._too_long()
        self._at = self._from + end
        return value

    @property
    def _is_cut(self) -> bool:
        return self._from + len(self._window) < len(self._text)

    def _too_long(self) -> TooMuch:
        return TooMuch(f"a value in this body should have at most {PIECE_CHARS_MAX} characters")

    def _fault(self, reason: str) -> NotJson:
        return _not_json(reason, self._text, self._at)


_UNENDED = ("Unterminated string starting at",)
_ESCAPE_CHARS = 12
"""Two escapes, a surrogate pair: a fault that is nearer to the end of what was read may be that end."""


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
