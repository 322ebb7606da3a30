"""The costs and the commit axis, with few requests: they find what is to be found."""

from __future__ import annotations

import pytest

from conf import DatabaseSettings
from db.scope import SCOPES
from server.compare.commit_time import Amount, commit_times
from server.compare.cost import TWIN, load, lookups
from server.compare.findings import lost_under_load
from server.compare.load import Turn
from server.compare.processes import Worker
from tests.server.compare.test_processes import answer


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """The process that all others are forked from; it stays for the run."""
    with Worker(answer, "up") as worker:
        worker.receive(30)


def silent(text: str) -> None:
    """Reports no progress."""


def test_to_find_the_session_takes_longer_than_to_have_it_as_an_argument():
    """For all four, in nanoseconds; a registry takes longer than a variable."""
    found = {scope: numbers["lookup_ns"] for scope, numbers in lookups().items()}

    assert [*found] == [*SCOPES]
    assert 0 < found["explicit"] < found["contextvar"] < found["registry"] < 100_000


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_when_the_commit_happens_decides_what_an_acknowledgment_is_worth(scratch: DatabaseSettings):
    """Held back until COMMIT nothing is lost; sent before it, it is, and what was refused is kept."""
    found = commit_times(scratch, Amount(requests=2, kills=1), silent)

    ours = [by_idiom["onfinish"] for by_idiom in found.values()]
    assert [(count["lost"], count["kept_though_refused"], count["good_refused"]) for count in ours] == (
        [(0, 0, 0)] * 4
    )
    assert found["kill"]["onfinish"]["acknowledged"] >= 40
    assert found["kill"]["onfinish"]["unanswered"] > 0
    assert found["commit"]["naive"]["lost"] == 2
    assert found["raise"]["naive"]["kept_though_refused"] == 2
    mixin = [by_idiom["tornado-sqlalchemy"] for by_idiom in found.values()]
    assert [(count["lost"], count["kept_though_refused"]) for count in mixin] == [(0, 0)] * 4


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_server_under_load_is_measured_and_what_it_keeps_is_counted(scratch: DatabaseSettings):
    """By turns, the explicit one twice; broken uploads cost a registry connections, and explicit nothing."""
    scopes = ["explicit", "registry"]

    found = load(scratch, scopes, 1, Turn(reads=20, writes=10, bad=3), silent)

    assert [*found] == [*scopes, TWIN]
    for measured in found.values():
        assert [turn["kind"] for turn in measured["turns"]] == ["read", "write"]
        assert all(turn["good"] == turn["requests"] for turn in measured["turns"])
        assert all(turn["cpu_us"] > 0 and turn["p99_ms"] >= turn["p50_ms"] > 0 for turn in measured["turns"])
        assert lost_under_load(measured) == 0
    kept = {name: measured["after"]["connections_out"] for name, measured in found.items()}
    assert kept == {"explicit": 0, "registry": 1, TWIN: 0}
    assert found["explicit"]["afterwards"]["good"] == 20
    assert found["registry"]["after"]["sessions_registered"] >= 1
