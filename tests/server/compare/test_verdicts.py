"""How a verdict follows from the evidence."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest

from db.errors import SessionSettled
from db.scope import NoSession
from server.compare.verdicts import Evidence, Found, Kind, ModelCall, judge


def call(found: Found = Found.OWN, *, caller: str = "A", text: str = "row", **more: Any) -> ModelCall:
    return ModelCall(caller, "add_entry", text, found=found, session=1, **more)


def kept(*calls: ModelCall, rows: tuple[str, ...] = ("row",), **more: Any) -> Evidence:
    return Evidence(list(calls), to_be_kept={"row"}, rows=list(rows), **more)


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (kept(call()), Kind.HOLDS),
        (kept(call(error=NoSession("where?")), rows=()), Kind.REFUSED),
        (kept(call(), errors=[("A", SessionSettled("over"))], rows=()), Kind.REFUSED),
        (kept(call(error=TypeError("create_entry() missing argument: 'session'")), rows=()), Kind.REFUSED),
        (kept(call(), connections_out=1), Kind.LEAKED),
        (kept(call(), rows=()), Kind.LOST),
        (kept(call(Found.MADE_UP), rows=()), Kind.LOST),
        (kept(call(), answers=[("A", 200)], rows=()), Kind.LOST),
        (kept(call(), errors=[("A", SessionSettled("over"))], answers=[("A", 200)], rows=()), Kind.LOST),
        (kept(call(), call(text="bad"), rows=("row", "bad"), to_be_refused={"bad"}), Kind.KEPT),
        (kept(call(), call(text="bad"), answers=[("A", 201)], to_be_refused={"bad"}), Kind.LOST),
        (kept(call(), call(text="bad"), answers=[("A", 409)], to_be_refused={"bad"}), Kind.HOLDS),
        (kept(call(shared=True)), Kind.MIXED),
        (kept(call(), call(caller="B", text="bad"), call(saw=["bad"]), to_be_undone={"bad"}), Kind.MIXED),
        (kept(call(error=RuntimeError("pool")), rows=()), Kind.BROKEN),
        (kept(call(Found.SETTLED)), Kind.STALE),
        (kept(call(Found.ANOTHERS)), Kind.MIXED),
        (kept(call(), rows=("row", "bad"), to_be_undone={"bad"}), Kind.KEPT),
        (kept(call(Found.MADE_UP), call(Found.MADE_UP, caller="B")), Kind.MIXED),
    ],
)
def test_each_kind_of_verdict_is_found(evidence, kind):
    """One piece of evidence each, and nothing else with it."""
    assert judge(evidence).kind is kind


def test_the_worst_is_the_verdict_and_the_rest_stands_beside_it():
    evidence = kept(call(Found.ANOTHERS), call(Found.MADE_UP, text="other"), connections_out=2)

    verdict = judge(evidence)

    assert verdict.kind is Kind.MIXED
    assert verdict.also == [Kind.LOST, Kind.LEAKED]
    assert verdict.reason == "worked in another request's session"


def test_a_session_that_refused_the_call_was_not_used():
    """A call that finds another's session and is refused by it has done nothing wrong."""
    evidence = kept(call(Found.SETTLED, error=SessionSettled("over")), rows=())

    assert judge(evidence).kind is Kind.REFUSED


def test_evidence_is_shown_in_few_lines():
    """Of 200 rows the report shows some, and the number of the others."""
    names = {f"r{number}" for number in range(200)}
    evidence = Evidence([call(text=name) for name in names], to_be_kept=names, rows=sorted(names))

    shown = evidence.as_json()

    assert len(shown["sessions"]) == 8
    assert shown["sessions_left_out"] == 192
    assert shown["rows"]["in the database"][-1] == "… and 192 more"


def test_a_row_whose_call_was_never_reached_is_not_lost():
    """The error that kept the request from it is the verdict."""
    evidence = Evidence(
        [ModelCall("Z", "list_entries", None, error=RuntimeError("pool"))],
        to_be_kept={"row"},
        answers=[("Z", 599)],
    )

    assert judge(evidence).kind is Kind.BROKEN


def test_a_variable_that_is_not_set_is_a_clear_error():
    variable: ContextVar[object] = ContextVar("session")
    with pytest.raises(LookupError) as caught:
        variable.get()

    assert judge(kept(call(error=caught.value), rows=())).kind is Kind.REFUSED
    assert judge(kept(call(error=KeyError("session")), rows=())).kind is Kind.BROKEN


def test_what_holds_or_refuses_is_sound():
    assert [kind for kind in Kind if kind.sound] == [Kind.HOLDS, Kind.REFUSED]
    assert all(kind.meaning for kind in Kind)
