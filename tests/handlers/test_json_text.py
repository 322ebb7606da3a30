"""JSON as it arrives: what is taken, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from handlers.json_api.json_text import (
    LEVELS_MAX,
    PIECE_CHARS_MAX,
    NotJson,
    TooMuch,
    count_values,
    faults_of,
    parse,
    parse_pieces,
    pointer,
)

NOT_JSON = {
    "nothing": (b"", "empty"),
    "white space": (b" \n", "line 2, column 1"),
    "a word": (b"nonsense", "line 1, column 1"),
    "half an object": (b'{"a":', "column 6"),
    "more than one value": (b"{}{}", "Extra data"),
    "single quotes": (b"{'a':1}", "column 2"),
    "a trailing comma": (b'{"a":1,}', "line 1"),
    "a comment": (b"{}//", "Extra data"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8 at byte 0"),
    "bad UTF-8": (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
    "overlong UTF-8": (b'"\xc0\x80"', "not UTF-8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "a control character": (b'"\x01"', "control character"),
    "NaN": (b'{"a":NaN}', "NaN is no JSON number"),
    "Infinity": (b"[Infinity]", "Infinity is no JSON number"),
    "-Infinity": (b"-Infinity", "-Infinity is no JSON number"),
    "a number with a leading zero": (b"01", "Extra data"),
    "5,000 digits": (b"1" * 5000, "too many digits"),
    "100,000 levels of arrays": (b"[" * 100_000, "nested too deeply"),
    "100,000 levels, closed": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "100,000 levels of objects": (b'{"a":' * 100_000, "nested too deeply"),
    "a name twice": (b'{"a":1,"b":2,"a":1}', "the name 'a' stands twice"),
    "a name twice, deep inside": (b'[{"x":{"a":1,"\\u0061":2}}]', "the name 'a' stands twice"),
}


@pytest.mark.parametrize(("body", "why"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_refused_with_the_reason(body: bytes, why: str):
    with pytest.raises(NotJson) as refused:
        parse(body)

    assert why in str(refused.value)
    str(refused.value).encode()  # it can be sent


@given(
    st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789eE+-.\\u tfn', max_size=60).map(str.encode)
)
def test_whatever_is_sent_it_is_read_or_refused(body: bytes):
    """Nothing else comes out, which would be a fault of ours."""
    try:
        value = parse(body)
    except NotJson:
        return
    assert value == json.loads(body.decode())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("a", 0, "b"), "/a/0/b"),
        (("",), "/"),
        (("a/b", "m~n", "~1"), "/a~1b/m~0n/~01"),
        (("\ud800", "ключ"), "/?/ключ"),
    ],
)
def test_a_pointer_is_escaped_as_rfc_6901_says(path: tuple[str | int, ...], text: str):
    assert pointer(path) == text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(JSON)
def test_the_length_is_that_of_the_compact_text(value: Any):
    """To the byte: one less is too long, exactly that is not."""
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())

    assert list(faults_of(value, bytes_max=size)) == []
    assert [path for path, _ in faults_of(value, bytes_max=size - 1)] == [()]


# -- in pieces


def put_together(body: bytes) -> Any:
    """The value that pieces are of."""
    value: Any = {}
    for path, piece in parse_pieces(body, "items"):
        if not path:
            value = piece
        elif len(path) == 1:
            value[str(path[0])] = piece
        else:
            value.setdefault("items", []).append(piece)
            assert path == ("items", len(value["items"]) - 1)
    return value


SPACED = st.sampled_from(["", " ", "\n", " \t\r\n"])


@given(
    st.dictionaries(st.sampled_from(["items", "a", "\u00e9", ""]), JSON, max_size=4),
    st.sampled_from([None, 1]),
    SPACED,
)
def test_pieces_are_of_the_value_that_is_read_at_once(value: dict[str, Any], indent: int | None, space: str):
    text = space + json.dumps(value, indent=indent) + space

    assert put_together(text.encode()) == value == parse(text.encode())


@given(st.text(alphabet='[]{}",:0123456789eE+-.\\u tfn', max_size=40), st.integers(0, 60))
def test_pieces_are_refused_where_the_whole_is(text: str, at: int):
    """Where the text is a bulk's with something in it that may not belong there."""
    whole = '{"items": [1, {"a": "\\u00e9"}, [2.5]], "b": {}}'
    body = (whole[:at] + text + whole[at:]).encode()
    try:
        value = parse(body)
    except NotJson:
        with pytest.raises(NotJson):
            put_together(body)
    else:
        assert put_together(body) == value


@pytest.mark.parametrize(("body", "why"), NOT_JSON.values(), ids=NOT_JSON)
def test_a_piece_that_is_no_json_is_refused_with_the_reason(body: bytes, why: str):
    with pytest.raises(NotJson):
        put_together(b'{"items": [' + body + b"]}" if body.startswith((b"1", b"[", b"-")) else body)


def test_a_piece_may_be_of_any_size_up_to_its_limit_and_stand_anywhere():
    """In the text, that is: a window that it is read in ends somewhere in every one of them."""
    pieces = ["x" * (size - 2) for size in (PIECE_CHARS_MAX, 3, PIECE_CHARS_MAX - 1, 500_000, 700_000) * 2]

    assert put_together(json.dumps({"items": pieces}).encode()) == {"items": pieces}


@pytest.mark.parametrize(
    "piece",
    [
        b'"' + b"x" * PIECE_CHARS_MAX + b'"',
        b"[" + b"1," * PIECE_CHARS_MAX + b"1]",
        b'["' + b"\\u00e9" * PIECE_CHARS_MAX + b'"]',
        b"[" + b'"x",' * PIECE_CHARS_MAX + b"1]",
        b'[{"x" :' + b" " * 2 * PIECE_CHARS_MAX + b"1}]",
        b"0." + b"1" * 2 * PIECE_CHARS_MAX,
    ],
    ids=["string", "numbers", "escapes", "strings", "space", "number"],
)
def test_a_longer_piece_is_refused(piece: bytes):
    """Not as though it were no JSON."""
    with pytest.raises(TooMuch):
        put_together(b'{"items": [1, ' + piece + b"," + piece + b"]}")


def test_a_fault_far_inside_has_its_own_line():
    body = b'{"items": [\n' + b'"xxxxxxx",\n' * 500_000 + b"nonsense]}"

    with pytest.raises(NotJson, match=r"line 500002, column 1\)"):
        put_together(body)


# -- how many values


def number_of_values(value: Any) -> int:
    """The value itself, and those in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(number_of_values, inner))


def empties_in(value: Any) -> int:
    """How many arrays and objects have nothing in them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (value in ([], {})) + sum(map(empties_in, inner))


@given(JSON, st.booleans())
def test_values_are_counted_without_being_read(value: Any, ascii_: bool):
    """An empty array counts as one that has something in it. What stands in a string does not."""
    body = json.dumps(value, ensure_ascii=ascii_).encode()

    assert count_values(body, 0) > 0
    assert count_values(body, 10**9) >= number_of_values(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handlers.json_api.json_text._SCANNED_BYTES", 3)
        exact = number_of_values(value) + empties_in(value)
        assert count_values(body, exact) <= exact
        if exact > 1:
            assert count_values(body, exact - 1) == exact


def test_every_fault_is_found_with_its_path():
    value = {
        "a/b": ["x\0", {"deep": float("inf")}],
        "big": 10**400,
        "half": "\ud83d",
        "\0": 1,
        "\ud800": -float("inf"),
    }

    faults = list(faults_of(value, bytes_max=1000))

    assert len(faults) == 7
    assert set(faults) == {
        (("a/b", 0), "should not hold a NUL character"),
        (("a/b", 1, "deep"), "should be a finite number"),
        (("big",), "should be a finite number"),
        (("half",), "should not hold half of a surrogate pair"),
        (("\0",), "the name should not hold a NUL character"),
        (("\ud800",), "the name should not hold half of a surrogate pair"),
        (("\ud800",), "should be a finite number"),
    }


def test_a_whole_surrogate_pair_is_one_character():
    value = parse(b'"\\ud83d\\ude80"')

    assert value == "🚀"
    assert list(faults_of(value, bytes_max=100)) == []


@pytest.mark.parametrize(("levels", "faults"), [(LEVELS_MAX, 0), (LEVELS_MAX + 1, 1), (900, 1)])
def test_nesting_has_a_limit(levels: int, faults: int):
    value = parse(b"[" * levels + b"]" * levels)

    assert len(list(faults_of(value, bytes_max=10_000))) == faults


def test_nothing_is_looked_at_beyond_the_limit():
    """A million faults are not listed where the first look says that it is too long."""
    value = {"a": ["\0"] * 1_000_000}

    assert len(list(faults_of(value, bytes_max=1000))) == 1
