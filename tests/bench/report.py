"""The tables of a result, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench import goal, machine
from tests.bench.calls import CALLS

BEGIN, END = "<!-- measured: written by python -m tests.bench -->", "<!-- end of measured -->"
TABLES_BEGIN, TABLES_END = "<!-- tables: written by python -m tests.bench -->", "<!-- end of tables -->"
PROFILE_BEGIN, PROFILE_END = (
    "<!-- profile: written by python -m tests.bench profile -->",
    "<!-- end of profile -->",
)

_DIGITS = {"cpu_us": "{:.0f}", "per_s": "{:.0f}", "p50_ms": "{:.1f}", "p99_ms": "{:.1f}"}
_LABELS = {
    "cpu_us": "server CPU per request, µs (export and bulk: per row)",
    "per_s": "requests per second (export and bulk: rows)",
    "p50_ms": "median latency, ms",
    "p99_ms": "p99 latency, ms",
}


def summary(result: dict[str, Any], *, plot: str | None = None) -> str:
    """What is to be reached and what is, the picture, and on what it was measured.

    Args:
        plot: where it is, seen from where this goes.
    """
    parts = []
    if found := goals(result):
        reached = sum(one["reached"] for one in found)
        parts += [f"{reached} of {len(found)} goals are reached.", goal.table(found)]
    if plot is not None:
        parts.append(f"![server CPU per request]({plot})")
    return "\n\n".join([*parts, machine.sentence(result["machine"])]) + "\n"


def tables(result: dict[str, Any]) -> str:
    """All else that a result has, as tables."""
    parts = []
    if "calls" in result:
        medians, labels = result["calls"]["medians"], result["calls"]["labels"]
        parts += [_calls_table(medians, labels, measure) for measure in _DIGITS]
    if "machinery" in result:
        parts.append(_parts_table(result["machinery"]["parts_us"]))
    if "clients" in result:
        parts.append(_clients_table(result["clients"]))
    if "goodput" in result:
        parts.append(_goodput_table(result["goodput"]["medians"]))
    if "sqlite" in result:
        parts.append(_calls_table(result["sqlite"]["medians"], result["sqlite"]["labels"], "cpu_us"))
    if "start" in result:
        parts.append(_start_table(result["start"]))
    return "\n\n".join(parts) + "\n"


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """All goals that a result has something to say of."""
    return [one for part in result.values() if isinstance(part, dict) for one in part.get("goals", ())]


def write(result: dict[str, Any], path: Path, *, plot: str | None = None) -> None:
    """Write a result into a file: its summary and its tables between the marks of each, else all of it.

    Args:
        plot: as of `summary`.
    """
    between(summary(result, plot=plot), path, BEGIN, END)
    if TABLES_BEGIN in path.read_text():
        between(tables(result), path, TABLES_BEGIN, TABLES_END)
    else:
        between(f"{summary(result, plot=plot)}\n{tables(result)}", path, BEGIN, END)


def between(written: str, path: Path, begin: str, end: str) -> None:
    """Write into a file: between its two marks where it has them, else as all of it."""
    text = path.read_text() if path.exists() else ""
    if begin in text and end in text:
        before, after = text.partition(begin)[0], text.partition(end)[2]
        written = f"{before}{begin}\n\n{written}\n{end}{after}"
    path.write_text(written)


def _calls_table(medians: dict[str, Any], labels: dict[str, str], measure: str) -> str:
    lines = [
        f"| {_LABELS[measure]} | {' | '.join(CALLS[call].label for call in medians)} |",
        f"|---|{'---|' * len(medians)}",
    ]
    for subject, label in labels.items():
        found = [by_subject.get(subject) for by_subject in medians.values()]
        cells = ["" if one is None else _DIGITS[measure].format(one[measure]["median"]) for one in found]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parts_table(parts_us: dict[str, dict[str, float]]) -> str:
    lines = ["| CPU in process, µs | median | quartiles |", "|---|---|---|"]
    for name, one in parts_us.items():
        lines.append(f"| {name} | {one['median']:.1f} | {one['low']:.1f} to {one['high']:.1f} |")
    return "\n".join(lines)


def _start_table(start: dict[str, Any]) -> str:
    lines = [
        "| start and rest, SQLite | ready, s | CPU until then, s | RSS, MiB | PSS, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, one in start["medians"].items():
        cells = [f"{one[measure]['median']:.2f}" for measure in ("ready_s", "cpu_s")]
        cells += [f"{one[measure]['median']:.1f}" for measure in ("rss_mib", "pss_mib")]
        lines.append(f"| {start['labels'][name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _clients_table(clients: dict[str, Any]) -> str:
    per_s, kept = clients["per_s"], clients["kept"]
    numbers = list(next(iter(per_s.values())))
    lines = [
        f"| requests a second, by connections | {' | '.join(numbers)} |",
        f"|---|{'---|' * len(numbers)}",
    ]
    for name, label in clients["labels"].items():
        cells = [f"{per_s[name][one]['median']:.0f} ({kept[name][one]['median']:.2f})" for one in numbers]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


_GOODPUT = {
    "capacity": ("capacity, a second", "{:.0f}"),
    "offered": ("offered", "{:.0f}"),
    "goodput": ("served in time", "{:.0f}"),
    "ideal": ("ideal", "{:.0f}"),
    "accepted_us": ("CPU of a request served, µs", "{:.0f}"),
    "refused_us": ("of a refusal", "{:.0f}"),
    "available": ("share of a core available", "{:.2f}"),
    "server_cpu": ("used", "{:.2f}"),
    "generator_cpu": ("the generator's CPU", "{:.2f}"),
    "refusal_p50_ms": ("median refusal, ms", "{:.0f}"),
    "refusal_max_ms": ("slowest", "{:.0f}"),
    "served_p99_ms": ("p99 of those served, ms", "{:.0f}"),
}


def _goodput_table(medians: dict[str, Any]) -> str:
    lines = [f"| goodput, open loop | {' | '.join(medians)} |", f"|---|{'---|' * len(medians)}"]
    for measure, (label, digits) in _GOODPUT.items():
        cells = [digits.format(one[measure]["median"]) for one in medians.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
