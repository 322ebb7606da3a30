"""Sentences about one comparison: derived from its data, never written beforehand."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from server.compare.columns import TITLES
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


def wrong(result: Result, column: str) -> int:
    """In how many scenarios a column did something wrong, or hung."""
    return sum(count for kind, count in tally(result)[column].items() if kind not in _SOUND)


def leaks(result: Result, column: str) -> int:
    """In how many scenarios it left a connection checked out."""
    return sum(leaks_in(scenario["verdicts"][column]) for scenario in result["scenarios"].values())


def leaks_in(verdict: dict[str, Any]) -> bool:
    """Whether a verdict says that a connection stayed out, first or beside another thing."""
    return Kind.LEAKED.value in (verdict["verdict"], *verdict["also"])


def said(verdict: dict[str, Any]) -> str:
    """A verdict in words: what is worst, and whether it leaks a connection too."""
    word: str = verdict["verdict"]
    return f"{word}, leaks" if word != Kind.LEAKED.value and leaks_in(verdict) else word


def letter(verdict: dict[str, Any]) -> str:
    """A verdict in one letter, in lower case where it leaks a connection too."""
    word = verdict["verdict"]
    first: str = LETTERS.get(word, "!")
    return first.lower() if word != Kind.LEAKED.value and leaks_in(verdict) else first


LETTERS = {
    Kind.HOLDS.value: "H",
    Kind.REFUSED.value: "R",
    Kind.LEAKED.value: "C",
    Kind.STALE.value: "S",
    Kind.BROKEN.value: "B",
    Kind.KEPT.value: "K",
    Kind.LOST.value: "L",
    Kind.MIXED.value: "M",
}

GROUPS_OF_FORMS = {
    "guarded": ("explicit", "contextvar", "registry", "threadlocal"),
    "plain": ("explicit-plain", "contextvar-plain", "registry-plain", "threadlocal-plain"),
    "in use": ("baselayer", "tornado-sqlalchemy"),
}


def recommendation(result: Result) -> list[str]:
    """Which to take, in three sentences at most; each only where what it is about was run."""
    found, number = [], len(result["scenarios"])
    columns = scopes_of(result)
    if "explicit" in columns:
        counts, bad = tally(result)["explicit"], wrong(result, "explicit")
        held = f"it held in {counts.get('holds', 0)} of {number} scenarios"
        found.append(
            f"Pass the session: {held} and refused in {counts.get('refused', 0)}, with a clear error and "
            "nothing wrong done."
            if not bad
            else f"Passed, the session went wrong in {bad} of {number} scenarios."
        )
    if "contextvar" in columns:
        counts, bad = tally(result)["contextvar"], wrong(result, "contextvar")
        where = "; ".join(titles(result, "contextvar", *_unsound()))
        found.append(
            "Where code cannot be given an argument, take a contextvar, as ContextvarHandler has it: it "
            f"held in {counts.get('holds', 0)}, refused in {counts.get('refused', 0)}"
            + (f", and went wrong in {bad} ({where})." if bad else ", and went wrong in none.")
        )
    others = [name for name in columns if name not in ("explicit", "contextvar")]
    if others:
        listed = "; ".join(f"{TITLES[name]} in {wrong(result, name)}" for name in others)
        found.append(
            f"Take none of the others under Tornado; they went wrong without a clear error: {listed}."
        )
    return found


def what_guards_add(result: Result) -> list[tuple[str, int, int]]:
    """By scope: in how many scenarios it goes wrong, guarded and plain."""
    columns = scopes_of(result)
    return [
        (scope, wrong(result, scope), wrong(result, f"{scope}-plain"))
        for scope in GROUPS_OF_FORMS["guarded"]
        if {scope, f"{scope}-plain"} <= {*columns}
    ]


def by_group(result: Result) -> dict[str, dict[str, dict[str, Any]]]:
    """The scenarios by what one does, in their order."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, scenario in result["scenarios"].items():
        found.setdefault(scenario["group"], {})[name] = scenario
    return found


def alike(scenario: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    """The verdicts of a scenario, those together of which the same is said."""
    found: dict[tuple[str, str], tuple[list[str], dict[str, Any]]] = {}
    for column, verdict in scenario["verdicts"].items():
        columns, _ = found.setdefault((said(verdict), verdict["sentence"]), ([], verdict))
        columns.append(column)
    return list(found.values())


def conclusion(result: Result) -> list[str]:
    """What it costs, and what the moment of the commit decides: a sentence or two each."""
    return [*_about_guards(result), *_about_cost(result), *_about_commit(result)]


def _about_guards(result: Result) -> list[str]:
    added = what_guards_add(result)
    if not added:
        return []
    number = len(result["scenarios"])
    parts = [f"{TITLES[scope]} {plain} without and {guarded} with" for scope, guarded, plain in added]
    return [f"What the guards add, in scenarios of {number} that go wrong: {', '.join(parts)}."]


def _unsound() -> list[str]:
    return [kind for kind in KINDS if kind not in _SOUND]


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
    commit = result.get("commit", {})
    for idiom in next(iter(commit.values()), {}):
        counts = [by_idiom[idiom] for fault, by_idiom in commit.items() if fault != "kill"]
        acknowledged, refused = (
            sum(count[field] for count in counts) for field in ("acknowledged", "refused")
        )
        lost = sum(count["lost"] for count in counts)
        kept = sum(count["kept_though_refused"] for count in counts)
        blocked = sum(count["good_refused"] for count in counts)
        sentence = (
            f"Commit as in {idiom}: of {acknowledged} acknowledged writes {lost} were lost, "
            f"of {refused} refused ones {kept} were kept"
        )
        sentence += (
            f", {blocked} sound requests were refused for what an earlier one had left or held."
            if blocked
            else "."
        )
        found.append(sentence)
    return [*found, *_about_kills(commit)]


def _about_kills(commit: dict[str, Any]) -> list[str]:
    by_idiom = commit.get("kill", {})
    if not by_idiom:
        return []
    parts = [f"{idiom} {count['lost']} of {count['acknowledged']}" for idiom, count in by_idiom.items()]
    tells = (
        "" if any(count["lost"] for count in by_idiom.values()) else ", which tells nothing about any of them"
    )
    return [
        f"Of acknowledged writes to a server that was killed under load were lost: {', '.join(parts)}{tells}."
    ]
