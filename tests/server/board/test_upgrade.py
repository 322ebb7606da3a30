"""One upgrade, as docs/deploy.md would do it: the schema first, then the processes one after the other.

From the revision below to this one. It is started as it was, from its own files, beside this one's.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ROOT, ServerProcess, StartServer
from tests.fixtures.waiting import wait_until

OLD = "02e2e1c126a1b595c5c1c7e56aa291635905700f"
"""The revision from which the upgrade goes."""

PHASE_S = 2.0
"""How long the traffic runs in each state of the upgrade."""

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the old revision."""
    archive = subprocess.run(["git", "archive", OLD], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode and "CI" not in os.environ:
        pytest.skip(f"this clone has no revision {OLD[:7]}: git fetch --unshallow")
    assert archive.returncode == 0, archive.stderr.decode()
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """A database without a schema."""
    name = postgres_cluster.create_database()
    yield postgres_cluster.url_for(name)
    assert wait_until(lambda: not postgres_cluster.connections_to(name), timeout_s=10.0)
    postgres_cluster.drop_database(name)


def command(tree: Path, *arguments: str, **environ: str) -> str:
    """Run a command of the service from ``tree``; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=tree,
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(tree), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def variables_of(tree: Path, **environ: str) -> dict[str, str]:
    """Every setting of a revision as a variable, with the value in force there."""
    settings = json.loads(command(tree, "config", "--json", **environ))
    return {
        entry["variable"]: json.dumps(entry["value"]).strip('"')
        for path, entry in settings.items()
        if entry["value"] not in (None, [], {}) and path not in ("database.url", "conf_dir")
    }


class Traffic:
    """Clients that add, transfer and claim tasks, and note what they were told. Lives as long as its block.

    A request whose server refuses the connection, or says 503, is sent again, to any server: one that adds a
    task has an Idempotency-Key, and is sent once more after its success too.

    Args:
        teams: the ids of two teams.
    """

    def __init__(self, servers: list[ServerProcess], teams: tuple[int, int]) -> None:
        self.servers = servers
        self.teams = teams
        self.added: dict[str, str] = {}
        self.moves: Counter[str] = Counter()
        self.limiter: dict[str, int | None] = {}
        self.claimed: list[str] = []
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(work, seed), daemon=True)
            for seed, work in enumerate([self._add, self._add, self._transfer, self._claim])
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(60)

    def runs(self) -> None:
        """Let it run for a while, and see that it gets on."""
        before = self.answers["201"]
        time.sleep(PHASE_S)
        assert wait_until(lambda: self.answers["201"] > before or bool(self.faults), timeout_s=20.0)

    def _run(self, work: Any, seed: int) -> None:
        choice = random.Random(seed)
        try:
            for number in itertools.count():
                if self._enough.is_set():
                    return
                work(choice, f"{seed}-{number}")
        except Exception as error:  # noqa: BLE001  # in a thread, where the test would not see it
            self.faults.append(repr(error))

    def _add(self, choice: random.Random, key: str) -> None:
        task_id = uuid.uuid4().hex
        headers = {"Idempotency-Key": key}
        first = self._ask(choice, "POST", "/tasks", {**TASK, "id": task_id}, headers)
        self.added[task_id] = first
        again = self._ask(choice, "POST", "/tasks", {**TASK, "id": task_id}, headers)
        if again != first:
            self.faults.append(f"the same request was answered {first!r} and {again!r}")

    def _transfer(self, choice: random.Random, key: str) -> None:
        if not self.limiter:
            created = json.loads(self._ask(choice, "POST", "/tasks", {**TASK, "task_status": 99}, {}))
            self.added[created["id"]] = ""
            self.limiter[created["id"]] = None
        [task_id] = self.limiter
        there = self.teams[self.moves[task_id] % 2]
        body = {"from_team_id": self.limiter[task_id], "to_team_id": there, "note": key}
        self._ask(choice, "POST", f"/tasks/{task_id}/transfer", body, {})
        self.limiter[task_id] = there
        self.moves[task_id] += 1

    def _claim(self, choice: random.Random, key: str) -> None:
        self.claimed += [
            task["id"]
            for task in json.loads(self._ask(choice, "POST", "/tasks/claim", {"limit": 3}, {}))["items"]
        ]

    def _ask(
        self, choice: random.Random, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> str:
        """The body of a success; what is no success, and no 503 that may be sent again, is a fault."""
        content = json.dumps(body)
        while True:
            port = choice.choice(self.servers).port
            try:
                with contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                ) as connection:
                    connection.request(method, path, content, {"Content-Type": "application/json", **headers})
                    answer = connection.getresponse()
                    told = answer.read().decode()
            except ConnectionRefusedError:  # it has just been stopped
                self.answers["refused"] += 1
                time.sleep(0.01)
                continue
            self.answers[str(answer.status)] += 1
            if answer.status in (200, 201):
                return told
            if answer.status != 503 or "Retry-After" not in answer.headers:
                raise AssertionError(f"{method} {path} of {port}: {answer.status} {told}")
            time.sleep(0.05)


def test_an_upgrade_under_traffic_loses_and_doubles_nothing(old: Path, url: str, start_server: StartServer):
    """Old and new processes serve one database side by side, before and after its schema is the new one.

    No request fails but by a 503 that may be sent again; an Idempotency-Key holds from one to the other.
    """
    sql = RawSql(url)
    command(old, "migrate", DATABASE_URL=url)
    before = [start_server(url=url, environ={"PYTHONPATH": str(old)}, warm=False) for _ in range(2)]
    teams = [before[0].request("POST", "/teams", {"name": name}).body["id"] for name in ("one", "other")]

    with Traffic(before, (teams[0], teams[1])) as traffic:
        traffic.runs()
        command(ROOT, "migrate", DATABASE_URL=url)
        assert [server.request("GET", "/readyz").status for server in before] == [200, 200]
        traffic.runs()
        after = [start_server(url=url), start_server("--processes", "2", url=url)]
        traffic.servers = before + after
        traffic.runs()
        traffic.servers = after
        for server in before:
            server.send_signal(signal.SIGTERM)
        ends = [server.wait() for server in before]
        traffic.runs()

    assert traffic.faults == []
    assert ends == [0, 0]
    assert "Traceback" not in "".join(server.err for server in before + after)
    assert {row["id"] for row in sql("SELECT id FROM tasks")} == set(traffic.added)
    assert traffic.moves.total() > 0
    assert {
        row["task_id"]: row["n"] for row in sql("SELECT task_id, count(*) AS n FROM transfers GROUP BY 1")
    } == (dict(traffic.moves))
    for task_id, team_id in traffic.limiter.items():
        [row] = sql("SELECT team_id FROM tasks WHERE id = :id", id=task_id)
        assert row["team_id"] == team_id
    assert len(traffic.claimed) == len(set(traffic.claimed)) > 0
    running = {row["id"] for row in sql("SELECT id FROM tasks WHERE task_status = 102")}
    assert running == set(traffic.claimed)


def test_an_old_process_is_ready_on_a_new_database(old: Path, url: str, start_server: StartServer):
    """A rollback of the service: its revision is the one that the old one expects, and migrates to."""
    command(ROOT, "migrate", DATABASE_URL=url)

    server = start_server(url=url, environ={"PYTHONPATH": str(old)}, warm=False)

    assert server.request("GET", "/readyz").status == 200
    assert server.request("POST", "/teams", {"name": "one"}).status == 201
    assert "already at" in command(old, "migrate", DATABASE_URL=url)


@pytest.mark.parametrize("environment", ["development", "testing", "production"])
def test_a_configuration_of_before_still_starts_the_service(
    old: Path, url: str, start_server: StartServer, environment: str
):
    """Its TOML files as they were, and each setting that it had as a variable, with its value there."""
    url += "?sslmode=disable"  # which production would not do without
    variables = variables_of(old, ENVIRONMENT=environment, DATABASE_URL=url)
    command(ROOT, "migrate", DATABASE_URL=url)

    server = start_server(
        url=url, environ={**variables, "ENVIRONMENT": environment, "PORT": "0", "CONF_DIR": str(old / "conf")}
    )

    assert len(variables) > 30
    assert server.request("GET", "/readyz").status == 200
    assert server.request("POST", "/teams", {"name": "one"}).status == 201
