"""The evidence in a sentence: whose row, in whose session, and what its client had read."""

from __future__ import annotations

from typing import Any

import pytest

from db.errors import SessionSettled
from server.compare.sentences import in_a_sentence
from server.compare.verdicts import Evidence, Found, ModelCall, judge


def call(caller: str, text: str | None = None, **more: Any) -> ModelCall:
    return ModelCall(caller, "add_entry", text, **{"found": Found.OWN, "session": 1, **more})


THE_WORKER = Evidence(
    [call("B", "B's row", found=Found.ANOTHERS, owner="A"), call("A", "A's row")],
    answers=[("A", 400), ("B", 200)],
    to_be_kept={"B's row"},
    to_be_undone={"A's row"},
)


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        (
            THE_WORKER,
            "B's row was added to A's session. "
            "When A was refused (400), B's acknowledged row was undone with it.",
        ),
        (
            Evidence([call("A", "row")], answers=[("A", 400)], to_be_refused={"row"}, rows=["row"]),
            "“row” is in the database, though A's client had read 400.",
        ),
        (
            Evidence(
                [call("A", "row")],
                answers=[("A", 201)],
                errors=[("A", ValueError("constraint"))],
                to_be_refused={"row"},
            ),
            "ValueError was raised when A's answer had been sent. "
            "“row” is lost, and A's client had read 201.",
        ),
        (
            Evidence(
                [call("A", "row", found=Found.SETTLED)],
                answers=[("A", 200)],
                to_be_kept={"row"},
                connections_out=2,
            ),
            "A's row was added to the session of a finished request, which opened again without an error. "
            "“row” is lost, and A's client had read 200. "
            "2 connections of the pool stayed out until the garbage collector found them.",
        ),
        (
            Evidence(
                [call("A", "row", error=SessionSettled("POST: it is over; do this"))], to_be_kept={"row"}
            ),
            "A had SessionSettled: POST: it is over.",
        ),
        (
            Evidence([call("A", "row")], answers=[("A", 200)], to_be_kept={"row"}, rows=["row"]),
            "“row” is in the database, and A's client had read 200.",
        ),
        (
            Evidence([call("A", "row", shared=True)], to_be_kept={"row"}, rows=["row"]),
            "Two threads worked in A's session at once; neither raised.",
        ),
    ],
)
def test_what_was_observed_is_said(evidence, sentence):
    assert in_a_sentence(judge(evidence)) == sentence
