"""The command that fills the board with a sample."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from db.board import sample
from db.board.tasks import NEXT_STATUSES, QUEUED, STATUSES
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client
from tests.server.terminals import on_a_terminal
from tests.server.test_cli import Run, run, start

ID = "f2ee55c638084ebfb35a00c003670ad9"


def seed(database_url: str, *arguments: str) -> Run:
    """Run the command to its end."""
    return run("seed", *arguments, DATABASE_URL=database_url)


def counts(sql: RawSql) -> tuple[int, int, int]:
    """How many teams, tasks and transfers there are."""
    counted = [sql(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in ("teams", "tasks", "transfers")]
    return counted[0], counted[1], counted[2]


def test_the_first_look_is_not_empty(database_url: str, sql: RawSql):
    done = seed(database_url)

    assert (done.status, done.err) == (0, "")
    teams, tasks, transfers = counts(sql)
    assert (teams, tasks) == (8, 200)
    assert transfers > 5
    shown = make_url(database_url).render_as_string()
    assert re.fullmatch(
        rf"added 8 teams, 200 tasks and {transfers} transfers in \d+\.\d s to {re.escape(shown)}\n"
        rf"look at one: /tasks/{ID}\n",
        done.out,
    )


@pytest.mark.gen_test
async def test_the_documents_own_row_is_among_them_as_the_contract_prints_it(
    client: Client, database_url: str
):
    await asyncio.to_thread(seed, database_url, "--tasks", "1")

    assert (await client.get(f"/tasks/{ID}")).json() == {
        "id": ID,
        "task_status": 101,
        "s3_keys": {},
        "bundle": "store",
        "granularity": "daily",
        "target_date": "2020-04-01",
        "change_id": 3,
        "team_id": None,
        "version": 1,
        "create_time": "2020-03-01T00:00:00Z",
        "update_time": "2020-06-03T10:45:00.287701Z",
    }


@pytest.mark.gen_test
async def test_what_it_adds_is_answered_as_anything_else(client: Client, database_url: str):
    """The client holds every answer against the document: ids, times, lengths, keys."""
    await asyncio.to_thread(seed, database_url, "--tasks", "1200")

    answer = await client.get("/tasks/export")
    tasks = (await client.get("/tasks?limit=1000")).json()["items"]

    assert answer.body.count(b"\n") == 1200
    assert {task["task_status"] for task in tasks} == set(STATUSES)
    assert len((await client.get("/teams")).json()["items"]) == 8
    first = [f"/tasks/{task['id']}/transfers" for task in tasks[:60]]
    assert [path for path in first if (await client.get(path)).json()["items"]]
    changed = await client.patch(f"/tasks/{tasks[0]['id']}", {"change_id": 7})
    assert changed.json()["version"] == tasks[0]["version"] + 1


def test_run_twice_it_adds_nothing_and_changes_nothing(database_url: str, sql: RawSql):
    seed(database_url, "--tasks", "30")
    sql("UPDATE tasks SET bundle = 'mine' WHERE id = :id", id=ID)
    before = counts(sql)

    done = seed(database_url, "--tasks", "30")

    assert done.status == 0
    assert done.out.startswith("nothing to add: 8 teams and 30 tasks are in ")
    assert counts(sql) == before
    assert sql("SELECT bundle FROM tasks WHERE id = :id", id=ID) == [{"bundle": "mine"}]


@pytest.mark.slow
def test_a_larger_sample_goes_on_where_the_smaller_ended(database_url: str, sql: RawSql):
    seed(database_url, "--tasks", "1500")
    first = {row["id"] for row in sql("SELECT id FROM tasks")}

    done = seed(database_url, "--tasks", "2500", "--teams", "10")

    assert "added 2 teams, 1,000 tasks and " in done.out
    assert first < {row["id"] for row in sql("SELECT id FROM tasks")}
    assert sql("SELECT count(DISTINCT task_id) AS tasks, count(*) AS n FROM transfers")[0].values()


def test_the_same_number_makes_the_same_rows_and_another_others(database_url: str, sql: RawSql):
    columns = "id, bundle, create_time, version, target_date, task_status"
    seed(database_url, "--tasks", "50", "--random-seed", "7")
    first = sql(f"SELECT {columns} FROM tasks ORDER BY id")
    sql("DELETE FROM tasks")
    seed(database_url, "--tasks", "50", "--random-seed", "7")
    again = sql(f"SELECT {columns} FROM tasks ORDER BY id")
    sql("DELETE FROM tasks")
    seed(database_url, "--tasks", "50", "--random-seed", "8")
    other = sql(f"SELECT {columns} FROM tasks ORDER BY id")

    assert again == first
    assert [row["id"] for row in other if row in first] == [ID]


@pytest.mark.slow
def test_two_at_once_add_everything_once(database_url: str, sql: RawSql):
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(seed, database_url, "--tasks", "2000") for _ in range(2)]
        told = [one.result() for one in both]

    assert [done.status for done in told] == [0, 0]
    said = [line for done in told for line in done.err.splitlines()]
    assert all("seed: retrying (Conflict)" in line for line in said), said
    teams, tasks, transfers = counts(sql)
    assert (teams, tasks) == (8, 2000)
    seed(database_url, "--tasks", "2000")
    assert counts(sql) == (teams, tasks, transfers)


@pytest.mark.slow
def test_interrupted_it_keeps_what_it_has_added_and_goes_on_later(database_url: str, sql: RawSql):
    with start("seed", "--tasks", "200_000", DATABASE_URL=database_url) as process:
        deadline = time.monotonic() + 60
        while counts(sql)[1] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    added = counts(sql)[1]
    assert 0 < added < 200_000
    assert re.search(r"interrupted: ([\d,]+) tasks were added; run it again to go on\n", err)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_server_beside_it_goes_on_reading_and_writing(client: Client, database_url: str):
    """Its writers get their turn on SQLite too, where there is one writer at a time."""
    seeding = asyncio.create_task(asyncio.to_thread(seed, database_url, "--tasks", "8000"))
    statuses = []
    number = 0
    while not seeding.done():
        number += 1
        statuses.append((await client.post("/teams", {"name": f"team {number}"})).code)
        statuses.append((await client.get("/tasks?limit=5")).code)
        await asyncio.sleep(0.02)

    assert (await seeding).status == 0
    assert set(statuses) <= {200, 201}
    assert len(statuses) > 20


@pytest.mark.slow
def test_piped_it_is_quiet(database_url: str):
    done = seed(database_url, "--tasks", "6000")

    assert done.err == ""
    assert len(done.out.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_large_sample_shows_its_progress_on_a_terminal_of_80_columns(database_url: str):
    screen = on_a_terminal("seed", "--tasks", "12000", DATABASE_URL=database_url)

    bars = re.findall(r"\r( *\d+%\|[^\r]*)", screen)
    assert bars, screen
    assert all(len(bar) <= 80 for bar in bars)
    assert "tasks/s]" in bars[-1]
    lines = [line.rpartition("\r")[2] for line in screen.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if "%|" in line] == []  # the bar is gone at the end


class TestRefusals:
    @pytest.fixture(params=["-1", "many", "100000001", "1.5"])
    def number(self, request: pytest.FixtureRequest) -> str:
        """What is no number of tasks."""
        value: str = request.param
        return value

    def test_a_number_that_is_none(self, number: str, tmp_path: Path):
        done = run("seed", f"--tasks={number}", cwd=tmp_path)

        assert done.status == 2
        assert f"should be a number from 0 to 100,000,000, not '{number}'" in done.err
        assert list(tmp_path.iterdir()) == []

    def test_a_database_in_memory(self):
        done = run("seed", DATABASE_URL="sqlite://")

        assert done.status == 2
        assert "database.url: in memory, it ends with this command: give a file" in done.err

    def test_a_database_that_does_not_answer(self, unused_port: int):
        done = run("seed", DATABASE_URL=f"postgresql://me:geheim@127.0.0.1:{unused_port}/x")

        assert done.status == 1
        assert "the database cannot be reached" in done.err
        assert "from environment DATABASE_URL]" in done.err

    @pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
    def test_a_schema_that_is_behind(self, database_url: str, sql: RawSql):
        sql("UPDATE alembic_version SET version_num = '0001'")
        done = seed(database_url)
        sql("DELETE FROM alembic_version")
        none = seed(database_url)

        assert done.status == 1
        assert re.fullmatch(
            r"\S.* seed: the schema is at 0001, the code expects \d{4}: run `python -m server migrate`\n",
            done.err,
        )
        assert none.status == 1
        assert "seed: there is no schema, the code expects" in none.err

    def test_a_new_sqlite_file_is_given_its_schema(self, tmp_path: Path):
        done = run("seed", cwd=tmp_path)

        assert done.status == 0
        assert (tmp_path / "onfinish.db").exists()


class TestSample:
    @pytest.fixture
    def tasks(self) -> list[dict[str, Any]]:
        """Five thousand of them."""
        return [
            task for chunk in sample.chunks(5000, team_ids=[1, 2, 3], random_seed=0) for task in chunk.tasks
        ]

    def test_each_has_a_history_that_may_have_been(self, tasks: list[dict[str, Any]]):
        for task in tasks[1:]:
            changed = task["task_status"] != QUEUED
            assert (task["version"] > 1) == (task["update_time"] > task["create_time"])
            assert task["version"] >= 1 + changed
            if task["task_status"] not in (QUEUED, *NEXT_STATUSES[QUEUED]):
                assert task["version"] >= 3
            assert abs(task["target_date"] - task["create_time"].date()) < timedelta(days=40)

    def test_ids_are_ids_and_no_two_alike(self, tasks: list[dict[str, Any]]):
        ids = [task["id"] for task in tasks]

        assert len(set(ids)) == 5000
        assert [each for each in ids if not re.fullmatch("[0-9a-f]{32}", each)] == []

    def test_names_of_teams_are_all_different_and_short_enough(self):
        names = sample.team_names(1000)

        assert len(set(names)) == 1000
        assert max(map(len, names)) <= 64
