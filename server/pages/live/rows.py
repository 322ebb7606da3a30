"""What all processes do, put together: which unit of work waits for which, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from db.backend import ServerSession
from server.pages.live.sessions import Answer

ROWS_MAX = 200

Kind = Literal["holds", "blocked", "waits", "idle", "runs"]
_ORDER: Mapping[Kind, int] = {"holds": 0, "blocked": 1, "waits": 2, "idle": 3, "runs": 3}

_STEPS = {
    "statement": "runs SQL",
    "commit": "commits",
    "rollback": "rolls back",
    "connect": "connects to the database",
}


@dataclass
class Row:
    """A unit of work as the page shows it.

    ``blocks`` counts the units that wait for it, directly or not. ``held_by`` are the keys of the units that
    it waits for, those that merely stand before it in the lock's queue among them; ``roots`` are the keys of
    those at the end of that chain, ``holders`` their names. ``strangers`` are sentences about other sessions.
    """

    key: str
    process: int
    name: str
    request_id: str
    age_s: float
    pool: str
    kind: Kind
    headline: str = ""
    blocks: int = 0
    held_by: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    deadline_in_s: float | None = None
    sql: str = ""
    statements: int = 0
    place: Mapping[str, Any] | None = None


@dataclass
class Live:
    """All of it. Lives as long as one answer."""

    processes: list[dict[str, Any]]
    rows: list[Row]
    open: int
    stuck: list[int]
    why_no_locks: str


def pids_of(processes: Iterable[Mapping[str, Any]]) -> list[int]:
    """The ids of the database's sessions that units of the writer hold."""
    return [
        unit["server_pid"]
        for process in processes
        for unit in process.get("units", ())
        if unit["server_pid"] is not None and unit["pool"] == "writer"
    ]


def live_of(processes: Sequence[dict[str, Any]], answer: Answer) -> Live:
    """Put the answers of the processes and that of the database together."""
    units = [
        (process["process"], unit, process["pools"])
        for process in processes
        for unit in process.get("units", ())
    ]
    by_pid = {
        unit["server_pid"]: unit
        for _, unit, _ in units
        if unit["server_pid"] is not None and unit["pool"] == "writer"
    }
    sessions = {each.pid: each for each in answer.sessions}
    rows = {}
    for process, unit, pools in units:
        session = sessions.get(unit["server_pid"]) if unit["pool"] == "writer" else None
        rows[unit["key"]] = row = _row(process, unit, session)
        if session is not None and session.waits_for:
            row.kind = "blocked"
            for pid in session.waits_for:
                if pid in by_pid:
                    row.held_by.append(by_pid[pid]["key"])
                else:
                    row.strangers.append(_stranger(pid, sessions.get(pid)))
        elif unit["step"] == "lock":
            row.kind = "blocked"
            row.held_by += _holders_of_file(units, unit)
            if not row.held_by:
                row.strangers.append("another program, which is not of this server")
        elif unit["stage"] == "queued" and pools[unit["pool"]]["size"] == 1:
            row.held_by += _holders_of_slot(units, process, unit)
    _count_blocked(rows)
    _number_queues(rows, units)
    for _, unit, _ in units:
        row = rows[unit["key"]]
        row.roots = _roots(row, rows) or row.held_by
        row.holders = [f"{rows[key].name} {rows[key].request_id}".strip() for key in row.roots]
        row.headline = _headline(row, unit, sessions.get(unit["server_pid"]))
    ordered = sorted(rows.values(), key=lambda row: (_ORDER[row.kind], -row.blocks, -row.age_s))
    return Live(
        processes=list(processes),
        rows=ordered[:ROWS_MAX],
        open=sum(process.get("open", 0) for process in processes),
        stuck=[process["process"] for process in processes if "error" in process],
        why_no_locks=answer.why_none,
    )


def seconds(value: float) -> str:
    """A time in words: ``0.2 s``, ``12 s``, ``6 min``."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def _row(process: int, unit: Mapping[str, Any], session: ServerSession | None) -> Row:
    if unit["stage"] == "queued":
        kind: Kind = "waits"
    elif unit["has_connection"] and (unit["stage"] == "between" or unit["step"] == "python"):
        kind = "idle"
    else:
        kind = "runs"
    named = unit["method"] and unit.get("route")
    return Row(
        key=unit["key"],
        process=process,
        name=f"{unit['method']} {unit['route']}" if named else unit["label"],
        request_id=unit.get("request_id", ""),
        age_s=unit["age_s"],
        pool=unit["pool"],
        kind=kind,
        deadline_in_s=unit["deadline_in_s"],
        sql=unit["sql"],
        statements=unit["statements"],
        place=unit["place"],
    )


def _headline(row: Row, unit: Mapping[str, Any], session: ServerSession | None) -> str:
    said = []
    others = "1 other waits" if row.blocks == 1 else f"{row.blocks} others wait"
    if row.blocks and not row.held_by:
        said.append(f"holds a lock that {others} for")
    state_s = session.state_s if session is not None else None
    if row.held_by and unit["stage"] == "queued":
        said.append(f"{unit['headline']}, which one unit of work has at a time")
    elif unit["stage"] == "queued":
        said.append(unit["headline"])
    elif row.held_by or row.strangers:
        lock = "the file's write lock" if unit["step"] == "lock" else "a lock"
        said.append(f"waits for {lock}" + ("" if state_s is None else f" · {seconds(state_s)}"))
    elif unit["stage"] == "between" and not unit["has_connection"]:
        said.append("holds no connection")
    elif unit["stage"] == "between" and row.pool.endswith("reader"):
        said.append("holds a connection, and no SQL is under way")
    elif unit["stage"] == "between":
        idle = session is not None and session.state.startswith("idle in transaction")
        said.append(
            "idle in its transaction" + (f" for {seconds(state_s)}" if idle and state_s is not None else "")
        )
    elif unit["step"] == "python":
        said.append("runs Python, its transaction open" if unit["has_connection"] else "runs Python")
    else:
        said.append(_STEPS.get(unit["step"], unit["step"]))
    if row.blocks and row.held_by:
        said.append(f"{others} behind it")
    if unit["deadline_in_s"] is not None and row.kind in ("blocked", "waits"):
        said.append(f"{seconds(max(0.0, unit['deadline_in_s']))} until its deadline")
    return " · ".join(said)


def _roots(row: Row, rows: Mapping[str, Row]) -> list[str]:
    """The units at the end of the chain of those that a unit waits for; none where it is a circle."""
    seen: dict[str, None] = {}
    left = list(row.held_by)
    while left:
        key = left.pop()
        if key not in seen and key in rows:
            seen[key] = None
            left += rows[key].held_by
    return [key for key in seen if not rows[key].held_by]


def _stranger(pid: int, session: ServerSession | None) -> str:
    if session is None:
        return f"session {pid} of the database, which is not of this server"
    about = [session.application or "a session without a name", f"session {pid}"]
    if session.user:
        about.append(f"user {session.user}")
    if session.state:
        about.append(session.state + ("" if session.state_s is None else f" for {seconds(session.state_s)}"))
    return ", ".join(about) + ": not of this server"


Units = Sequence[tuple[int, Mapping[str, Any], Mapping[str, Any]]]


def _holders_of_file(units: Units, waiter: Mapping[str, Any]) -> list[str]:
    """The unit that has the write lock of the database's file: the one writer whose transaction has begun."""
    return [
        unit["key"]
        for _, unit, _ in units
        if unit is not waiter
        and unit["pool"] == waiter["pool"]
        and unit["has_connection"]
        and unit["step"] != "lock"
    ]


def _holders_of_slot(units: Units, process: int, waiter: Mapping[str, Any]) -> list[str]:
    """The unit that has the only slot of a pool."""
    return [
        unit["key"]
        for other, unit, _ in units
        if other == process
        and unit["pool"] == waiter["pool"]
        and unit["stage"] != "queued"
        and unit["has_connection"]
    ]


def _count_blocked(rows: Mapping[str, Row]) -> None:
    """Count for each unit the others that wait for it, directly or not."""
    for row in rows.values():
        seen, left = set(), list(row.held_by)
        while left:
            key = left.pop()
            if key in seen or key not in rows or key == row.key:
                continue
            seen.add(key)
            rows[key].blocks += 1
            left += rows[key].held_by
    for row in rows.values():
        if row.blocks and not row.held_by and not row.strangers:
            row.kind = "holds"


def _number_queues(rows: Mapping[str, Row], units: Units) -> None:
    """Say for each unit that is queued how long it has been, and which one of the queue it is."""
    queues: dict[tuple[int, str], list[Any]] = {}
    for process, unit, _ in units:
        if unit["stage"] == "queued":
            queues.setdefault((process, unit["pool"]), []).append(unit)
    for (_, pool), queue in queues.items():
        queue.sort(key=lambda unit: -(unit["queued_s"] or 0.0))
        for number, unit in enumerate(queue, 1):
            unit["position"] = number
            unit["headline"] = (
                f"waits for a slot of the {pool} · {seconds(unit['queued_s'] or 0.0)}, "
                f"number {number} in the queue"
            )
