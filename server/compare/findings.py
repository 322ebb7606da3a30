"""Sentences about one comparison: derived from its data, never written beforehand."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from server.compare.cost import TWIN
from server.compare.load import AFTERWARDS
from server.compare.verdicts import Kind

Result = dict[str, Any]

KINDS = [kind.value for kind in Kind]
ROUNDS_TO_TELL = 4
"""With three rounds, chance alone has all of them on one side in one case of four."""

_SOUND = {kind.value for kind in Kind if kind.sound}


def scopes_of(result: Result) -> list[str]:
    """The scopes that were run, in their order."""
    return list(next(iter(result["scenarios"].values()))["verdicts"]) if result["scenarios"] else []


def tally(result: Result) -> dict[str, dict[str, int]]:
    """How many scenarios had each verdict, by scope."""
    counted: dict[str, dict[str, int]] = {}
    for scope in scopes_of(result):
        verdicts = Counter(each["verdicts"][scope]["verdict"] for each in result["scenarios"].values())
        counted[scope] = {kind: verdicts[kind] for kind in [*KINDS, "hung", "failed"] if verdicts[kind]}
    return counted


def titles(
    result: Result, scope: str, *verdicts: str, against: str | None = None, unlike: bool = False
) -> list[str]:
    """The scenarios in which a scope has one of these verdicts.

    Args:
        against: another scope, which …
        unlike: … has another verdict there.
    """
    found = []
    for scenario in result["scenarios"].values():
        own = scenario["verdicts"][scope]["verdict"]
        if own in verdicts:
            if against is not None and (scenario["verdicts"][against]["verdict"] != own) is not unlike:
                continue
            found.append(scenario["title"])
    return found


def conclusion(result: Result) -> list[str]:
    """The conclusions, a sentence or two each."""
    return [*_about_scopes(result), *_about_cost(result), *_about_commit(result)]


def _about_scopes(result: Result) -> list[str]:
    counted, number, found = tally(result), len(result["scenarios"]), []
    for scope, counts in counted.items():
        in_words = ", ".join(f"{kind} in {count}" for kind, count in counts.items())
        bad = sum(count for kind, count in counts.items() if kind not in _SOUND)
        end = "Nothing wrong was done." if not bad else f"In {bad} it went wrong without an error."
        found.append(f"{scope}: {in_words} of {number} scenarios. {end}")
    if {"explicit", "contextvar"} <= {*counted}:
        equal = sum(
            each["verdicts"]["explicit"]["verdict"] == each["verdicts"]["contextvar"]["verdict"]
            for each in result["scenarios"].values()
        )
        found.append(
            f"A contextvar does as explicit does in {equal} of {number}."
            + _listed(
                " It is better in", titles(result, "contextvar", "holds", against="explicit", unlike=True)
            )
            + _listed(
                " It refuses where explicit holds in",
                [
                    each["title"]
                    for each in result["scenarios"].values()
                    if each["verdicts"]["explicit"]["verdict"] == "holds"
                    and each["verdicts"]["contextvar"]["verdict"] == "refused"
                ],
            )
            + _listed(" It goes wrong without an error in", titles(result, "contextvar", *_unsound()))
        )
    return found


def _unsound() -> list[str]:
    return [kind for kind in KINDS if kind not in _SOUND]


def _listed(beginning: str, names: Sequence[str]) -> str:
    return f"{beginning}: {'; '.join(names)}." if names else ""


# -- cost


def in_digits(number: float) -> str:
    """A measured number with its significant digits."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def figures(result: Result, measure: str, kind: str) -> dict[str, dict[str, float]]:
    """One measure of one kind of request, by server: its median over the rounds, least and most.

    Args:
        measure: ``cpu_us``, ``per_s``, ``p50_ms`` or ``p99_ms``.
        kind: ``read`` or ``write``.
    """
    found = {}
    for name, measured in result["load"].items():
        values = [turn[measure] for turn in measured["turns"] if turn["kind"] == kind and usable(turn)]
        if values:
            found[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return found


def usable(turn: dict[str, Any]) -> bool:
    """Whether a turn is a measure of cost: all requests were sent, and all succeeded."""
    return not turn["cut_off"] and turn["good"] == turn["requests"] > 0


def differences(result: Result, kind: str) -> dict[str, dict[str, float]]:
    """The differences of a server's CPU for a request from explicit's, as parts of that, round by round.

    Returns:
        By server: ``median``, ``least`` and ``most`` over the rounds. That of explicit's twin is noise.
    """
    base = _by_round(result, "explicit", kind)
    found = {}
    for name in result["load"]:
        own = _by_round(result, name, kind)
        shares = [own[number] / base[number] - 1 for number in own if number in base]
        if name != "explicit" and shares:
            found[name] = {"median": statistics.median(shares), "least": min(shares), "most": max(shares)}
    return found


def _significance(result: Result, kind: str, one: dict[str, float]) -> str:
    """Whether a difference is significant: each round has it on the same side, and it is more than the same
    program differs from itself in any of them."""
    twin = differences(result, kind).get(TWIN)
    if twin is None or len(_by_round(result, TWIN, kind)) < ROUNDS_TO_TELL:
        return "too few rounds to tell a difference from noise"
    noise = max(abs(twin["least"]), abs(twin["most"]))
    if one["least"] * one["most"] > 0 and abs(one["median"]) > noise:
        return f"more than the {noise:.1%} by which the same program differs from itself"
    return f"no difference that can be told from noise: the same program differs by up to {noise:.1%}"


def lost_under_load(measured: dict[str, Any]) -> int:
    """Writes that were acknowledged and are not in the database."""
    writes = [turn for turn in measured["turns"] if turn["kind"] == "write"]
    acknowledged: int = sum(turn["good"] for turn in [*writes, measured["afterwards"]])
    rows: int = measured["rows"]  # more, where a turn was cut off before an answer was read
    return max(0, acknowledged - rows)


def _by_round(result: Result, name: str, kind: str) -> dict[int, float]:
    turns = result["load"].get(name, {"turns": []})["turns"]
    return {turn["round"]: turn["cpu_us"] for turn in turns if turn["kind"] == kind and usable(turn)}


def _about_cost(result: Result) -> list[str]:
    found = []
    if "lookups" in result:
        parts = [f"{scope} {numbers['lookup_ns']:.0f} ns" for scope, numbers in result["lookups"].items()]
        found.append(
            f"To have the session costs: {', '.join(parts)}. For explicit that is reading the argument."
        )
    if "explicit" in result.get("load", {}):
        for kind, call in (("read", "GET"), ("write", "POST")):
            for name, one in differences(result, kind).items():
                if name != TWIN:
                    found.append(
                        f"{name} against explicit: {one['median']:+.1%} CPU for a {call} "
                        f"({one['least']:+.1%} to {one['most']:+.1%}), {_significance(result, kind, one)}."
                    )
    for name, measured in result.get("load", {}).items():
        bad = sum(turn["requests"] - turn["good"] for turn in measured["turns"])
        cut = any(turn["cut_off"] for turn in measured["turns"])
        left = measured["after"]["connections_out"]
        lost = lost_under_load(measured)
        if bad or cut or left or lost:
            after = measured["after"]
            found.append(
                f"{name} under load: {bad} requests failed{', turns were cut off' if cut else ''}; {lost} of "
                f"the writes it acknowledged were lost. It kept {after['sessions_alive']} sessions and "
                f"{left} of its connections, and of {AFTERWARDS} requests at the end it answered "
                f"{measured['afterwards']['good']}."
            )
    return found


def _about_commit(result: Result) -> list[str]:
    found = []
    for idiom in next(iter(result.get("commit", {}).values()), {}):
        counts = [by_idiom[idiom] for by_idiom in result["commit"].values()]
        lost = sum(count["lost"] for count in counts)
        kept = sum(count["kept_though_refused"] for count in counts)
        blocked = sum(count["good_refused"] for count in counts)
        sentence = (
            f"Commit as in {idiom}: {lost} acknowledged writes were lost, "
            f"{kept} writes of refused requests were kept"
        )
        sentence += (
            f", {blocked} sound requests were refused for what an earlier one had left or held."
            if blocked
            else "."
        )
        found.append(sentence)
    return found
