"""What a unit of work could do better: a SELECT in a loop, a connection that is held for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from db.engines._sqlalchemy import Load
from db.work.recorder import Line, Statement
from server.pages.live.places import place_at
from server.pages.requests.kept import Finding, RecordedUnit
from server.pages.requests.timeline import milliseconds

REPEATED_MIN = 5
"""So many equal SELECTs from one line are a loop."""

HELD_MIN_S = 0.1
"""A connection that was of no use for longer was held for nothing."""

_GAP_MIN_S = 0.02
"""Between two statements shorter pauses belong to the work with them, of the mapper for example."""

_READS = re.compile(r"\s*(select|with)\b", re.IGNORECASE)


def findings_of(unit: RecordedUnit, *, streams: bool = False) -> list[Finding]:
    """What there is to be said about a unit of work.

    Args:
        streams: its response is sent while it reads: the connection waits for the client, and has to.
    """
    found = list(_repeated(unit))
    if not streams and (held := _held(unit)) is not None:
        found.append(held)
    return found


def _repeated(unit: RecordedUnit) -> Iterator[Finding]:
    groups: dict[tuple[str, Line], list[Statement]] = {}
    for each in unit.recording.statements:
        # A loader's own SELECTs read some hundred rows each, as many as it takes.
        if each.line is not None and each.counts and (each.load is None or each.load.is_lazy):
            groups.setdefault((each.sql, each.line), []).append(each)
    for (sql, line), statements in groups.items():
        if len(statements) >= REPEATED_MIN and _READS.match(sql):
            yield _finding(statements, line, or_more=unit.recording.more > 0)


def _finding(statements: list[Statement], line: Line, *, or_more: bool) -> Finding:
    times, load = len(statements), statements[0].load
    saved_ms = sum(each.took_s for each in statements) / times * (times - 1) * 1000
    saves = f" {times - 1} statements and about {saved_ms:.0f} ms less." if saved_ms >= 1 else ""
    told = f"{times}{' or more' if or_more else ''} times the same SELECT"
    if load is None:
        about = "sends it for one row at a time. Read them all in one statement."
        return Finding("n+1", told, about + saves, "select(…).where(….in_(…))", _shown(line))
    attribute = f"{load.entity}.{load.attribute}"
    about = f"reads `{attribute}`, which is loaded for one row at a time. Load it with its rows."
    return Finding("n+1", f"{told}, one for each row", about + saves, _with_loader(load), _shown(line))


def _with_loader(load: Load) -> str:
    attribute = f"{load.entity}.{load.attribute}"
    return f"select({load.entity}).options({load.loader}({attribute}))" if load.loader else ""


def _held(unit: RecordedUnit) -> Finding | None:
    recording = unit.recording
    if recording.connected_at is None:
        return None
    # What the database was doing for it, in order.
    spans = [(each.began_at, each.took_s, each.line) for each in recording.statements]
    if not recording.more:  # else it was busy until then with what is not kept
        spans.append((*(recording.commit or recording.rollback or (unit.ended_at, 0.0)), None))
    held_s, longest_s, after, line = 0.0, 0.0, None, None
    idle_at = recording.connected_at
    for began_at, took_s, next_line in spans:
        gap_s = began_at - idle_at
        if gap_s >= _GAP_MIN_S:
            held_s += gap_s
            if gap_s > longest_s:
                longest_s, after = gap_s, line
        idle_at, line = max(idle_at, began_at + took_s), next_line
    if held_s <= HELD_MIN_S:
        return None
    where = "" if after is None else f", {milliseconds(longest_s * 1000)} of it behind this line"
    # The rest of the time without SQL was spent in its calls: in the code that they run.
    in_calls_s = unit.db_s - sum(took_s for _, took_s, _ in spans) - recording.more_s
    awaits = in_calls_s < held_s / 2
    meanwhile = "its handler awaited something else, such as another service" if awaits else "its code ran on"
    return Finding(
        "held",
        f"Held for nothing for {milliseconds(held_s * 1000)}",
        f"had a connection and ran no SQL while {meanwhile}{where}. What needs no database belongs behind "
        "the commit, which gives the connection back.",
        "await self.commit()" if unit.attempt else "",
        _shown(after) if after is not None else unit.label,
    )


def _shown(line: Line) -> str:
    place = place_at(line)
    return f"{place.file}:{place.line} {place.function}"
