"""The result of a comparison: small, made up, and complete."""

from __future__ import annotations

from typing import Any

from server.compare.code import code
from server.compare.commit_time import FAULTS, Count
from server.compare.cost import TWIN
from server.compare.idioms import IDIOMS

SCOPES = ("explicit", "contextvar", "registry", "threadlocal")


def comparison(**changes: Any) -> dict[str, Any]:
    """All of a result."""
    result = {
        "about": {
            "made_at": "2026-01-02T03:04:05+00:00",
            "database": "PostgreSQL 18.4",
            "versions": {"Python": "3.11.9", "Tornado": "6.6.1"},
            "machine": {"system": "Linux 6", "processor": "a <fast> one", "cores": 2, "load_at_start": 0.1},
            "quick": False,
            "rounds": 4,
            "clients": 16,
            "took_s": 61.0,
        },
        "scenarios": {
            "plain": scenario("plain handler", "holds", "holds", "holds", "lost"),
            "worker": scenario("a worker", "holds", "mixed", "mixed", "mixed"),
            "kept": scenario("a kept object", "refused", "holds", "holds", "holds"),
            "prepare": scenario("@gen.coroutine prepare", "holds", "refused", "lost", "holds"),
        },
        "lookups": {
            scope: {
                "lookup_ns": 10.0 * (number + 1),
                "lookup_spread_ns": 1.0,
                "attribute_ns": 20.0,
                "attribute_spread_ns": 2.0,
            }
            for number, scope in enumerate(SCOPES)
        },
        "load": {
            "explicit": server(1000),
            "contextvar": server(1010),
            "registry": server(1200),
            "threadlocal": server(1000, good=0, connections_out=9),
            TWIN: server(1000, jitter=30),
        },
        "commit": {fault: {idiom: vars(Count(sent=4)) for idiom in IDIOMS} for fault in FAULTS},
        "code": {scope: code(scope) for scope in SCOPES},
        "recommendation": ["Pass the <b>session</b>."],
        "conclusion": ["explicit <b>holds</b>"],
        "sound": True,
    }
    return {**result, **changes}


def scenario(title: str, *verdicts: str) -> dict[str, Any]:
    """A scenario with these verdicts."""
    return {
        "title": title,
        "group": "background work" if "worker" in title else "an ordinary request",
        "promise": f"What {title} promises.",
        "source": "async def play(world): ...",
        "verdicts": {
            scope: {
                "verdict": verdict,
                "reason": f"why {verdict}",
                "sentence": f"Whose row is {verdict}.",
                "also": ["leaked"] if verdict == "lost" else [],
                "evidence": {"n": 1},
            }
            for scope, verdict in zip(SCOPES, verdicts, strict=True)
        },
    }


def server(
    cpu_us: float, *, good: int = 100, jitter: float = 0, connections_out: int = 0, rounds: int = 4
) -> dict[str, Any]:
    """A server that was under load; its CPU goes up and down by ``jitter`` from round to round."""
    held = {"sessions_alive": 0, "sessions_registered": 0, "memory_kib": 70_000}
    turns = [
        {
            "round": number,
            "kind": kind,
            "requests": 100,
            "good": good,
            "cut_off": False,
            "cpu_us": cpu_us + (jitter if number % 2 else -jitter),
            "per_s": 900.0,
            "p50_ms": 10.0,
            "p99_ms": 30.0,
        }
        for number in range(rounds)
        for kind in ("read", "write")
    ]
    return {
        "turns": turns,
        "before": {**held, "connections_out": 0},
        "after": {**held, "connections_out": connections_out},
        "afterwards": {"good": 20 if good else 0},
        "rows": good * rounds + 20,
    }
