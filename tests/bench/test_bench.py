"""That the measurements run, and say what they mean. How fast anything is, no test says."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.bench import (
    __main__ as bench,
    clients,
    compare,
    goal,
    many,
    profile,
    report,
    sqlite,
    start,
    subjects,
)
from tests.bench.environments import PEERS, default_folder, versions
from tests.bench.goal import Goal
from tests.bench.progress import USUAL_S, Progress
from tests.bench.rounds import Samples, Spread, ratios, turned
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ROOT

SMALL = ["--rounds", "1", "--scale", "0.002", "--tasks", "60"]


def test_ratios_are_taken_within_a_round():
    """The machine may be slower in one round than in the next; what is compared ran side by side."""
    ours = [{"cpu_us": 2.0 * factor} for factor in (1.0, 3.0, 10.0)]
    theirs = [{"cpu_us": 1.0 * factor} for factor in (1.0, 3.0, 10.0)]

    assert ratios(ours, theirs, "cpu_us") == Spread(2.0, 2.0, 2.0)


def test_a_round_has_every_server_and_each_begins_with_another():
    rounds: list[Any] = [turned("abc", number) for number in range(3)]

    assert ["".join(one) for one in rounds] == ["abc", "bca", "cab"]


@pytest.mark.parametrize(
    ("at_most", "ratio", "reached"),
    [(True, 1.9, True), (True, 2.1, False), (False, 1.9, False), (False, 2.0, True)],
)
def test_a_goal_is_reached_by_the_median(at_most: bool, ratio: float, reached: bool):
    found = Goal("one", "other", 2.0, at_most).found(Spread(ratio, 0.1, 9.0))

    assert found["reached"] is reached
    assert ("| reached |" in goal.table([found])) is reached


def test_what_is_not_reached_has_the_bare_handler_beside_it():
    """Where others leave more than the goal, the service's own part of it is what counts."""
    missed, met = Goal("one", "other", 1.0), Goal("two", "other", 3.0)
    ratio, bare = Spread(2.0, 1.9, 2.1), Spread(1.6, 1.5, 1.7)

    lines = goal.table([missed.found(ratio, bare=bare), met.found(ratio, bare=bare)]).split("\n")

    assert lines[2].endswith("| not reached | 1.60 | 1.25 |")
    assert lines[3].endswith("| reached |  |  |")


def test_a_run_tells_what_remains_by_what_it_took_so_far():
    progress = Progress(["calls", "locks", "start"], share=0.5)
    usual_s = USUAL_S["locks"] + USUAL_S["start"]

    assert progress.remain_s(0, 0.0) == 0.5 * (USUAL_S["calls"] + usual_s)
    assert progress.remain_s(1, 2.0 * USUAL_S["calls"]) == 2.0 * usual_s


def test_a_whole_run_takes_25_minutes_at_most():
    """As long as each part takes what it usually does."""
    assert set(USUAL_S) == set(bench.MEASURED) - {"goals"}
    assert sum(USUAL_S.values()) <= 25 * 60


def test_the_fastest_driver_is_the_one_that_takes_least_cpu():
    samples: Samples = {"one": {"a": [{"cpu_us": 3.0}], "b": [{"cpu_us": 2.0}], "c": [{"cpu_us": 1.0}]}}

    assert compare.fastest_of(samples, ["a", "b"]) == "b"


def test_a_goal_is_shown_beside_the_bare_handler_on_the_same_driver():
    names = ["onfinish psycopg2", "bare psycopg2", "onfinish asyncpg", "bare asyncpg", "fastapi"]
    samples: Samples = {"one": {name: [{"cpu_us": at + 1.0, "p99_ms": 1.0}] for at, name in enumerate(names)}}

    found = compare.goals(samples, "onfinish psycopg2", "onfinish asyncpg")

    assert [(one["bound"], one["bare"]["median"]) for one in found] == [(0.7, 0.4), (0.62, 0.8), (0.5, 1.0)]


@pytest.mark.parametrize("name", sorted({peer.environment for peer in [*subjects.PEERS.values(), start.OWN]}))
def test_the_environment_of_a_peer_is_pinned(name: str):
    """All of it: a measurement of next year is of the same releases."""
    lines = (PEERS / f"{name}.txt").read_text().split()

    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line) for line in lines)


def test_the_service_is_started_with_what_it_requires_and_nothing_else():
    """And uvloop, which uvicorn brings for its own."""
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    required = {Requirement(line).name for line in parsed["options"]["install_requires"].split("\n") if line}
    pinned = {name.lower().replace("_", "-"): version for name, version in versions("onfinish").items()}

    found, unseen = set[str](), {name.lower() for name in required} | {"uvloop"}
    while unseen:
        name = unseen.pop()
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                unseen |= {needed.name.lower().replace("_", "-")} - found

    assert set(pinned) == found


class Measured(NamedTuple):
    """What a run left behind."""

    status: int
    result: dict[str, Any]
    tables: str
    plot: str


@pytest.fixture(scope="module")
def measured(postgres_cluster: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """All measurements at their smallest. Once for all: matplotlib keeps the files of its fonts open."""
    folder = tmp_path_factory.mktemp("bench")
    result, tables, svg = folder / "result.json", folder / "tables.md", folder / "plot.svg"
    marks = f"{report.BEGIN}\nold\n{report.END}\nmiddle\n{report.TABLES_BEGIN}\nold\n{report.TABLES_END}"
    tables.write_text(f"before\n{marks}\nafter\n")
    where = ["--json", str(result), "--markdown", str(tables), "--plot", str(svg)]
    url = ["--database-url", postgres_cluster.url_for("postgres")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "CONNECTIONS", (1, clients.OF, 32))
        status = bench.main(["goals", *SMALL, *url, "--peers", "bare", "--drivers", "psycopg2", *where])
    return Measured(status, json.loads(result.read_text()), tables.read_text(), svg.read_text())


@pytest.mark.slow
def test_all_measurements_run(measured: Measured, postgres_cluster: PostgresCluster):
    """Every part is there, and the databases are gone."""
    assert measured.status == 0
    calls = measured.result["calls"]["medians"]
    assert set(calls) == {"one", "list", "export", "patch", "create", "bulk"}
    assert all(one["onfinish psycopg2"]["cpu_us"]["median"] > 0 for one in calls.values())
    assert [name for name, one in calls.items() if "bare psycopg2" not in one] == ["export"]
    assert measured.result["start"]["medians"]["onfinish sqlite"]["rss_mib"]["median"] > 10
    assert set(measured.result["sqlite"]["medians"]) == {"one", "create"}
    # machinery, locks, an export's memory, processes, clients, round trips, goodput
    assert len(report.goals(measured.result)) == 4 + 2 + 1 + 1 + 2 + 3 + 8
    assert measured.result["trips"]["trips"] == {"one": 1, "create": 2, "patch": 3}
    with postgres_cluster.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'onfinish\\_bench%'")
        assert cursor.fetchone() == (0,)


@pytest.mark.slow
def test_the_tables_go_between_their_marks(measured: Measured):
    assert measured.tables.startswith("before\n")
    assert measured.tables.endswith("after\n")
    assert "old" not in measured.tables
    assert "empty unit of work" in measured.tables
    first, _, then = measured.tables.partition("\nmiddle\n")
    assert first.index("| | against | goal |") < first.index("](plot.svg)") < first.index("processors")
    assert "| one row | list of 20 |" in then
    assert "| goodput, open loop |" in then


@pytest.mark.slow
def test_the_plot_is_for_light_and_dark(measured: Measured):
    """It has no ground, and no ink that is lost on either."""
    assert "onfinish, psycopg2" in measured.plot
    assert not re.search("#000000|#ffffff", measured.plot)


def test_a_wrong_answer_ends_the_run(
    postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Told in a line that names the subject and the call; nothing is measured."""
    monkeypatch.setattr("tests.bench.rows.task", lambda number: {"id": "another"})
    url = ["--database-url", postgres_cluster.url_for("postgres")]

    status = bench.main(["calls", *SMALL, *url, "--peers", "none", "--drivers", "psycopg2", "--calls", "one"])

    assert status == 1
    assert "bench: onfinish, psycopg2, one row: a task is not {'id': 'another'}" in capsys.readouterr().err


def test_a_name_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench.main(["calls", "--peers", "django"])

    assert "there is no django; there are fastapi" in capsys.readouterr().err


@pytest.mark.slow
def test_a_profile_tells_whose_the_time_is(postgres_cluster: PostgresCluster, tmp_path: Path):
    """Of the loop's thread and of the others, by part and by function."""
    result = tmp_path / "profile.json"
    url = ["--database-url", postgres_cluster.url_for("postgres")]

    assert profile.main(["one", *url, "--tasks", "20", "--scale", "0.02", "--json", str(result)]) == 0

    told = json.loads(result.read_text())["one"]
    assert sum(told["parts_us"].values()) == pytest.approx(told["plain_us"])
    assert {"Tornado", "SQLAlchemy, Core", "onfinish, handlers", "the driver"} <= set(told["parts_us"])
    assert all(one["calls"] > 0 for one in told["functions"])
    # Of the loop, and of a thread.
    names = " ".join(one["name"] for one in told["functions"])
    assert "handlers/base.py" in names
    assert "db/board/tasks.py" in names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "driver"),
    [
        *((peer, "psycopg2") for peer in subjects.PEERS),
        *(("bare", name) for name in subjects.installed_drivers()),
    ],
)
def test_a_peer_and_the_bare_handler_answer_as_the_service_does(
    postgres_cluster: PostgresCluster, peer: str, driver: str
):
    """All calls and all mistakes; makes a peer's environment the first time."""
    url = ["--database-url", postgres_cluster.url_for("postgres")]

    assert bench.main(["calls", *SMALL, *url, "--peers", peer, "--drivers", driver]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["fastapi", "flask"])
def test_a_peer_on_sqlite_answers_as_the_service_does(peer: str):
    """One row and creations, and their mistakes."""
    found = sqlite.measure(rounds=1, tasks=60, peers=[peer], environments=default_folder(), scale=0.02)

    assert len(found["goals"]) == 2


@pytest.mark.slow
def test_many_rows_are_compared_with_the_driver_alone(postgres_cluster: PostgresCluster):
    """Both of those that have no HTTP."""
    from tests.bench.databases import databases

    with databases(postgres_cluster.url_for("postgres")) as made:
        found = many.measure(
            made, driver="psycopg2", rounds=1, environments=default_folder(), bulk=50, export=50
        )

    assert len(found["goals"]) == 3
