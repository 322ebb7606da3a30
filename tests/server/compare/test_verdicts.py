"""How a verdict is come by from what was seen."""

from __future__ import annotations

from typing import Any

import pytest

from db.errors import SessionSettled
from db.scope import NoSession
from server.compare.verdicts import Evidence, Found, Kind, Sighting, judge


def seen(found: Found = Found.OWN, *, who: str = "A", text: str = "row", **more: Any) -> Sighting:
    return Sighting(who, "put", text, found=found, session=1, **more)


def kept(*sightings: Sighting, rows: tuple[str, ...] = ("row",), **more: Any) -> Evidence:
    return Evidence(list(sightings), to_be_kept={"row"}, rows=list(rows), **more)


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (kept(seen()), Kind.HOLDS),
        (kept(seen(error=NoSession("where?")), rows=()), Kind.REFUSED),
        (kept(seen(), errors=[("A", SessionSettled("over"))], rows=()), Kind.REFUSED),
        (kept(seen(error=TypeError("write() missing argument: 'session'")), rows=()), Kind.REFUSED),
        (kept(seen(), connections_out=1), Kind.LEAKED),
        (kept(seen(), rows=()), Kind.LOST),
        (kept(seen(Found.MADE_UP)), Kind.LOST),
        (kept(seen(error=RuntimeError("pool")), rows=()), Kind.LOST),
        (kept(seen(Found.SETTLED)), Kind.STALE),
        (kept(seen(Found.ANOTHERS)), Kind.MIXED),
        (kept(seen(), rows=("row", "bad"), to_be_undone={"bad"}), Kind.MIXED),
        (kept(seen(Found.MADE_UP), seen(Found.MADE_UP, who="B")), Kind.MIXED),
    ],
)
def test_each_kind_of_verdict_is_found(evidence, kind):
    """One piece of evidence each, and nothing else with it."""
    assert judge(evidence).kind is kind


def test_the_worst_is_the_verdict_and_the_rest_stands_beside_it():
    evidence = kept(seen(Found.ANOTHERS), seen(Found.MADE_UP), connections_out=2)

    verdict = judge(evidence)

    assert verdict.kind is Kind.MIXED
    assert verdict.also == [Kind.LOST, Kind.LEAKED]
    assert verdict.reason == "worked in another request's session"


def test_a_session_that_was_looked_at_in_vain_was_not_used():
    """Whoever finds another's session and is refused by it has done nothing wrong with it."""
    evidence = kept(seen(Found.SETTLED, error=SessionSettled("over")), rows=())

    assert judge(evidence).kind is Kind.REFUSED


def test_evidence_is_told_in_few_lines():
    """Of 200 rows the report shows some, and says how many there are."""
    names = {f"r{number}" for number in range(200)}
    evidence = Evidence([seen(text=name) for name in names], to_be_kept=names, rows=sorted(names))

    told = evidence.told()

    assert len(told["sessions"]) == 8
    assert told["sessions_left_out"] == 192
    assert told["rows"]["in the database"][-1] == "… and 192 more"


def test_only_the_sound_kinds_can_be_lived_with():
    assert [kind for kind in Kind if kind.sound] == [Kind.HOLDS, Kind.REFUSED]
    assert all(kind.meaning for kind in Kind)
