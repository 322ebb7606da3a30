"""The tables of a result, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench import goal, machine
from tests.bench.calls import CALLS

BEGIN, END = "<!-- measured: written by python -m tests.bench -->", "<!-- end of measured -->"
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


def markdown(result: dict[str, Any], *, plot: str | None = None) -> str:
    """All that a result has, as tables.

    Args:
        plot: where it is, seen from where the tables go.
    """
    parts = []
    if found := goals(result):
        parts.append(goal.table(found))
    if plot is not None:
        parts.append(f"![server CPU per request]({plot})")
    parts.append(machine.sentence(result["machine"]))
    if "calls" in result:
        medians, labels = result["calls"]["medians"], result["calls"]["labels"]
        parts += [_calls_table(medians, labels, measure) for measure in _DIGITS]
        if allowed := result["calls"]["allowed"]:
            parts.append(_allowed_table(allowed, labels))
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


def write(tables: str, path: Path, begin: str = BEGIN, end: str = END) -> None:
    """Write tables into a file: between its two marks where it has them, else as all of it."""
    text = path.read_text() if path.exists() else ""
    if begin in text and end in text:
        before, after = text.partition(begin)[0], text.partition(end)[2]
        tables = f"{before}{begin}\n\n{tables}\n{end}{after}"
    path.write_text(tables)


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


def _allowed_table(allowed: list[dict[str, Any]], labels: dict[str, str]) -> str:
    names = list(allowed[0]["ratios"])
    lines = [
        f"| ratio to a peer | against | goal | {' | '.join(labels[name] for name in names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for one in allowed:
        cells = [f"{one['ratios'][name]['median']:.2f}" for name in names]
        bound = f"at {'most' if one['at_most'] else 'least'} {one['bound']:g}"
        lines.append(f"| {one['what']} | {one['against']} | {bound} | {' | '.join(cells)} |")
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
    "available": ("share of a core to be had", "{:.2f}"),
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
