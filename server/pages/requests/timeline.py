"""One request as it is drawn: paths of an SVG that is `WIDTH` wide, and a row for each statement."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

WIDTH, HEIGHT = 1000, 12

_LEAST, _LEAST_OF_ROW = 2.0, 5.0
"""How wide the shortest is drawn: in that of a unit, which is as wide as the page, and in a row."""

Json = Mapping[str, Any]


class Row(NamedTuple):
    """A statement, equal ones that follow each other, a COMMIT, or the answer.

    ``number`` counts the statements of the unit: "3", "3-62", or empty for what is none. ``kind`` is the
    class of its bars, of which ``path`` has all.
    """

    number: str
    took_ms: float
    rows: str
    kind: str
    path: str
    times: int = 1
    sql: str = ""
    line: Json | None = None
    load: str = ""
    words: str = ""
    failed: bool = False


class Track(NamedTuple):
    """One unit of work. ``bars`` are class and path of all that it did."""

    title: str
    outcome: str
    about: str
    bars: list[tuple[str, str]]
    tiles: list[tuple[str, str]]
    rows: list[Row]


def tracks_of(request: Json) -> list[Track]:
    """The units of work of a request, in their order.

    Args:
        request: as `KeptRequest.as_json` has it.
    """
    units = request["units"]
    attempts = [unit["attempt"] for unit in units if unit["attempt"]]
    return [_track(request, unit, is_last=unit["attempt"] == max(attempts, default=0)) for unit in units]


def milliseconds(value: float) -> str:
    """A time in words: ``0.06 ms``, ``4.1 ms``, ``410 ms``, ``1.3 s``."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f} ms"


def _track(request: Json, unit: Json, *, is_last: bool) -> Track:
    total_ms = max(request["took_ms"], unit["ended_ms"], 0.001)
    statements, commit, rollback = unit["statements"], unit["commit"], unit["rollback"]
    end = commit or rollback
    released_ms = unit["ended_ms"] if end is None else end["at_ms"] + end["took_ms"]

    def of_row(span: Json) -> str:
        return _path([span], total_ms, least=_LEAST_OF_ROW)

    kinds: dict[str, Sequence[Json]] = {}
    if unit["queued"] is not None:
        kinds["t-wait"] = [unit["queued"]]
    if unit["connected_ms"] is not None:
        kinds["t-held"] = [_span(unit["connected_ms"], released_ms - unit["connected_ms"])]
    kinds["t-sql"] = statements
    if commit is not None:
        kinds["t-commit"] = [commit]
    elif rollback is not None:
        kinds["t-undo"] = [rollback]
    answered = is_last and request["status"] is not None and unit["attempt"]
    answer = _span(request["took_ms"], 0.0)
    if answered:
        kinds["t-answer"] = [answer]
    rows = _rows(statements, total_ms)
    if (more := unit["not_kept"])["count"]:
        words = f"and {more['count']} statements more, which are not kept"
        rows.append(Row("", more["took_ms"], "", "t-sql", "", words=words))
    if commit is not None:
        words = "COMMIT" if unit["outcome"] == "kept" else f"COMMIT, and the outcome is {unit['outcome']}"
        rows.append(Row("", commit["took_ms"], "", "t-commit", of_row(commit), words=words))
    elif rollback is not None:
        rows.append(Row("", rollback["took_ms"], "", "t-undo", of_row(rollback), words="ROLLBACK"))
    if answered:
        later_ms = max(0.0, request["took_ms"] - released_ms)
        words = f"the answer left: {request['status']}, {milliseconds(later_ms)} later"
        rows.append(Row("", request["took_ms"], "", "t-answer", of_row(answer), words=words))
    return Track(
        title=f"attempt {unit['attempt']}" if unit["attempt"] else "in a transaction of its own",
        outcome=unit["outcome"] if is_last or not unit["attempt"] else f"{unit['outcome']}, retried",
        about=_about(unit),
        bars=[(kind, _path(spans, total_ms, least=_LEAST)) for kind, spans in kinds.items() if spans],
        tiles=_tiles(unit, end),
        rows=rows,
    )


def _rows(statements: Sequence[Json], total_ms: float) -> list[Row]:
    rows, number = [], 1
    for _, group in groupby(statements, lambda each: (each["sql"], each["line"], each["counts"])):
        equal = list(group)
        first, times = equal[0], len(equal)
        if first["counts"]:
            shown, number = (
                str(number) if times == 1 else f"{number}\N{EN DASH}{number + times - 1}",
                number + times,
            )
        else:
            shown = ""
        rows.append(
            Row(
                number=shown,
                took_ms=sum(each["took_ms"] for each in equal),
                rows=_rows_in_words([each["rows"] for each in equal]),
                kind="t-sql",
                path=_path(equal, total_ms, least=_LEAST_OF_ROW),
                times=times,
                sql=textwrap.dedent(first["sql"]).strip(),
                line=first["line"],
                load=_load_in_words(first["load"]),
                failed=any(each["failed"] for each in equal),
            )
        )
    return rows


def _rows_in_words(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return ""
    if len(known) == 1:
        return "1 row" if known[0] == 1 else f"{known[0]:,} rows"
    if min(known) == max(known):
        return f"{len(known)} × {known[0]:,}"
    return f"{sum(known):,} rows"


def _load_in_words(load: Json | None) -> str:
    if load is None:
        return ""
    return f"loads {load['entity']}.{load['attribute']} {'lazily' if load['is_lazy'] else 'with its rows'}"


def _about(unit: Json) -> str:
    words = [unit["label"], f"on the {unit['pool']}"]
    if unit["deadline_in_ms"] is not None:
        left = unit["deadline_in_ms"]
        words.append(
            f"{milliseconds(left)} left until its deadline" if left > 0 else "its deadline had passed"
        )
    return " · ".join(words)


def _tiles(unit: Json, end: Json | None) -> list[tuple[str, str]]:
    sql_ms = sum(each["took_ms"] for each in unit["statements"]) + unit["not_kept"]["took_ms"]
    count, end_ms = unit["count"], 0.0 if end is None else end["took_ms"]
    tiles = [(unit["ended_ms"] - unit["opened_ms"], "in all")]
    if unit["queued"] is not None:
        tiles.append((unit["queued"]["took_ms"], "waited for a slot"))
    tiles.append((sql_ms, "1 statement" if count == 1 else f"{count} statements"))
    tiles.append((max(0.0, unit["db_ms"] - sql_ms - end_ms), "Python between them"))
    if end is not None:
        tiles.append((end_ms, "COMMIT" if unit["commit"] is not None else "ROLLBACK"))
    return [(milliseconds(value), label) for value, label in tiles]


def _span(at_ms: float, took_ms: float) -> Json:
    return {"at_ms": at_ms, "took_ms": took_ms}


def _path(spans: Iterable[Json], total_ms: float, *, least: float) -> str:
    """A bar for each."""
    scale = WIDTH / total_ms
    bars = []
    for span in spans:
        width = max(least, span["took_ms"] * scale)
        at = min(max(0.0, span["at_ms"] * scale), WIDTH - width)
        bars.append(f"M{at:.1f} 0h{width:.1f}v{HEIGHT}h-{width:.1f}z")
    return "".join(bars)
