"""One request as it is drawn: paths of an SVG that is `WIDTH` wide, and a row for each statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

WIDTH, HEIGHT = 1000, 12

_LEAST = 2.0
"""How wide the shortest is drawn."""

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
    lanes = request["lanes"]
    attempts = [lane["attempt"] for lane in lanes if lane["attempt"]]
    return [_track(request, lane, is_last=lane["attempt"] == max(attempts, default=0)) for lane in lanes]


def milliseconds(value: float) -> str:
    """A time in words: ``0.6 ms``, ``41 ms``, ``1.3 s``."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _track(request: Json, lane: Json, *, is_last: bool) -> Track:
    total_ms = max(request["took_ms"], lane["ended_ms"], 0.001)
    statements, commit, rollback = lane["statements"], lane["commit"], lane["rollback"]
    end = commit or rollback
    released_ms = lane["ended_ms"] if end is None else end["at_ms"] + end["took_ms"]

    def path(spans: Iterable[Json]) -> str:
        return _path(((each["at_ms"], each["took_ms"]) for each in spans), total_ms)

    bars = []
    if lane["queued"] is not None:
        bars.append(("t-wait", path([lane["queued"]])))
    if lane["connected_ms"] is not None:
        bars.append(("t-held", _path([(lane["connected_ms"], released_ms - lane["connected_ms"])], total_ms)))
    bars.append(("t-sql", path(statements)))
    if commit is not None:
        bars.append(("t-commit", path([commit])))
    elif rollback is not None:
        bars.append(("t-undo", path([rollback])))
    answered = is_last and request["status"] is not None and lane["attempt"]
    if answered:
        bars.append(("t-answer", _path([(request["took_ms"], 0.0)], total_ms)))
    rows = _rows(statements, total_ms)
    if (more := lane["not_kept"])["count"]:
        words = f"and {more['count']} statements more, which are not kept"
        rows.append(Row("", more["took_ms"], "", "t-sql", "", words=words))
    if commit is not None:
        words = "COMMIT" if lane["outcome"] == "kept" else f"COMMIT, and the outcome is {lane['outcome']}"
        rows.append(Row("", commit["took_ms"], "", "t-commit", path([commit]), words=words))
    elif rollback is not None:
        rows.append(Row("", rollback["took_ms"], "", "t-undo", path([rollback]), words="ROLLBACK"))
    if answered:
        later_ms = max(0.0, request["took_ms"] - released_ms)
        words = f"the answer left: {request['status']}, {milliseconds(later_ms)} later"
        answer = _path([(request["took_ms"], 0.0)], total_ms)
        rows.append(Row("", request["took_ms"], "", "t-answer", answer, words=words))
    return Track(
        title=f"attempt {lane['attempt']}" if lane["attempt"] else "in a transaction of its own",
        outcome=lane["outcome"] if is_last or not lane["attempt"] else f"{lane['outcome']}, retried",
        about=_about(lane),
        bars=[bar for bar in bars if bar[1]],
        tiles=_tiles(lane, end),
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
                path=_path(((each["at_ms"], each["took_ms"]) for each in equal), total_ms),
                times=times,
                sql=first["sql"],
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


def _about(lane: Json) -> str:
    words = [lane["label"], f"on the {lane['pool']}"]
    if lane["deadline_in_ms"] is not None:
        left = lane["deadline_in_ms"]
        words.append(
            f"{milliseconds(left)} left until its deadline" if left > 0 else "its deadline had passed"
        )
    return " · ".join(words)


def _tiles(lane: Json, end: Json | None) -> list[tuple[str, str]]:
    sql_ms = sum(each["took_ms"] for each in lane["statements"]) + lane["not_kept"]["took_ms"]
    count, end_ms = lane["count"], 0.0 if end is None else end["took_ms"]
    tiles = [(lane["ended_ms"] - lane["opened_ms"], "in all")]
    if lane["queued"] is not None:
        tiles.append((lane["queued"]["took_ms"], "waited for a slot"))
    tiles.append((sql_ms, "1 statement" if count == 1 else f"{count} statements"))
    tiles.append((max(0.0, lane["db_ms"] - sql_ms - end_ms), "Python between them"))
    if end is not None:
        tiles.append((end_ms, "COMMIT" if lane["commit"] is not None else "ROLLBACK"))
    return [(milliseconds(value), label) for value, label in tiles]


def _path(spans: Iterable[tuple[float, float]], total_ms: float) -> str:
    """Bars from a time on, each so long, in milliseconds."""
    scale = WIDTH / total_ms
    bars = []
    for at_ms, took_ms in spans:
        width = max(_LEAST, took_ms * scale)
        at = min(max(0.0, at_ms * scale), WIDTH - width)
        bars.append(f"M{at:.1f} 0h{width:.1f}v{HEIGHT}h-{width:.1f}z")
    return "".join(bars)
