"""Random requests and random faults, against a model of what must be in the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tornado.ioloop import IOLoop

from conf import Settings
from tests.faults.board.board_model import TASK, Ask, Board, board_in
from tests.faults.test_under_load import TERMINATE
from tests.fixtures.databases import RawSql
from tests.fixtures.proxies import Proxy
from tests.fixtures.server import Answer, Client
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.usefixtures("told_in_the_log")

TIMEOUT_S = 0.6

IDS = [letter * 32 for letter in "abcd"]

WORDS = [
    "COMMIT",
    "commit_witness (",
    "INTO tasks",
    "UPDATE tasks",
    "INTO idempotency_keys",
    "DELETE FROM",
]
QUICK_FAULTS = ["terminated", "cut", *(f"{word}, {how}" for how in ("lost", "delivered") for word in WORDS)]
SLOW_FAULTS = ["black hole", "black hole at COMMIT", "black hole after COMMIT", "late COMMIT"]

ids = st.sampled_from(IDS)
team_ids = st.sampled_from([None, None, 1, 1, 2, 2, 99])  # of which the last is none
change_ids = st.integers(0, 5)
keys = st.sampled_from([None, "k1", "k2"])
statuses = st.sampled_from([None, 99, 101, 102, 200, 400])
quick_faults = st.none() | st.sampled_from(QUICK_FAULTS)
all_faults = st.sampled_from([None, *QUICK_FAULTS] * 4 + SLOW_FAULTS)


class World:
    """What the machine works on. Lives as long as the test, over all of its runs."""

    def __init__(self, loop: IOLoop, client: Client, proxy: Proxy, sql: RawSql) -> None:
        self.loop = loop
        self.client = client
        self.proxy = proxy
        self.sql = sql
        self.answers: dict[str, int] = {}

    def send(self, *asks: Ask) -> list[Answer]:
        """Send requests, all at once."""

        async def send() -> list[Answer]:
            return list(await asyncio.gather(*map(self._one, asks)))

        answers: list[Answer] = self.loop.run_sync(send)
        for answer in answers:
            outcome = answer.json()["outcome"] if answer.code >= 400 else ""
            told = f"{answer.code} {outcome}".strip()
            self.answers[told] = self.answers.get(told, 0) + 1
        return answers

    def _one(self, ask: Ask) -> Any:
        headers = {"Idempotency-Key": ask.key} if ask.key is not None else {}
        headers["Content-Type"] = "application/json"
        body = ask.body.encode() or None
        return self.client.request(ask.method, ask.path, body, headers=headers)

    def arm(self, fault: str | None) -> None:
        """Have a fault happen to the next request that comes to where it is."""
        proxy = self.proxy
        if fault is None:
            return
        slow: dict[str, Callable[[], None]] = {
            "terminated": lambda: void(self.sql(TERMINATE)),
            "cut": proxy.cut,
            "black hole": proxy.freeze,
            "black hole at COMMIT": lambda: proxy.swallow(b"COMMIT"),
            "black hole after COMMIT": lambda: proxy.lose_answer_to(b"COMMIT"),
            "late COMMIT": lambda: proxy.hold_at(b"COMMIT"),
        }
        if fault in slow:
            slow[fault]()
        else:
            word, _, how = fault.partition(", ")
            proxy.cut_at(word.encode(), delivered=how == "delivered")

    def heal(self) -> None:
        """End the fault, and wait until the server is done with what it has left."""
        proxy = self.proxy
        proxy.disarm()
        proxy.release()
        if proxy.is_frozen:
            proxy.thaw()
        busy = (
            "SELECT 1 AS x FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND application_name <> 'test' AND state <> 'idle'"
        )
        assert wait_until(lambda: not self.sql(busy)), "a transaction is open, and no statement runs in it"


def void(value: object) -> None:
    """Take a value and give none."""


def machine(world: World, faults: st.SearchStrategy[str | None]) -> type[RuleBasedStateMachine]:
    """The rules, for one world."""

    class BoardMachine(RuleBasedStateMachine):
        """Sends requests, and expects of each what the model says. Lives as long as one run."""

        @initialize()
        def begin(self) -> None:
            world.sql("TRUNCATE teams, tasks, transfers, idempotency_keys RESTART IDENTITY CASCADE")
            world.sql("INSERT INTO teams (name) VALUES ('a'), ('b')")
            world.sql(
                "INSERT INTO tasks (id, bundle, granularity, target_date, change_id, team_id)"
                " VALUES (:id, 'store', 'daily', '2020-04-01', 1, 1)",
                id=IDS[0],
            )
            self.board = board_in(world.sql)
            self.asked: list[Ask] = []

        @rule(task_id=ids, team_id=team_ids, change_id=change_ids, key=keys, fault=faults)
        def create(
            self, task_id: str, team_id: int | None, change_id: int, key: str | None, fault: str | None
        ) -> None:
            body = {**TASK, "id": task_id, "team_id": team_id, "change_id": change_id}
            self._try(Ask("POST", "/tasks", json.dumps(body), key), fault)

        @rule(task_ids=st.lists(ids, min_size=1, max_size=3), team_id=team_ids, key=keys, fault=faults)
        def bulk(self, task_ids: list[str], team_id: int | None, key: str | None, fault: str | None) -> None:
            items = [{**TASK, "id": one, "team_id": team_id, "change_id": 9} for one in task_ids]
            self._try(Ask("POST", "/tasks/bulk", json.dumps({"items": items}), key), fault)

        @rule(limit=st.integers(1, 3), team_id=st.sampled_from([None, 1, 2]), key=keys, fault=faults)
        def claim(self, limit: int, team_id: int | None, key: str | None, fault: str | None) -> None:
            body = json.dumps({"limit": limit, "team_id": team_id})
            self._try(Ask("POST", "/tasks/claim", body, key), fault)

        @rule(task_id=ids, source=team_ids, goal=team_ids, key=keys, fault=faults)
        def transfer(
            self, task_id: str, source: int | None, goal: int | None, key: str | None, fault: str | None
        ) -> None:
            body = json.dumps({"from_team_id": source, "to_team_id": goal})
            self._try(Ask("POST", f"/tasks/{task_id}/transfer", body, key), fault)

        @rule(task_id=ids, status=statuses, change_id=st.none() | change_ids, fault=faults)
        def patch(self, task_id: str, status: int | None, change_id: int | None, fault: str | None) -> None:
            change = {"task_status": status, "change_id": change_id}
            body = json.dumps({name: value for name, value in change.items() if value is not None})
            self._try(Ask("PATCH", f"/tasks/{task_id}", body), fault)

        @rule(task_id=ids, fault=faults)
        def delete(self, task_id: str, fault: str | None) -> None:
            self._try(Ask("DELETE", f"/tasks/{task_id}"), fault)

        @rule(data=st.data(), fault=faults)
        def repeat(self, data: st.DataObject, fault: str | None) -> None:
            """What was sent before, with a key or without, is sent again."""
            if self.asked:
                self._try(data.draw(st.sampled_from(self.asked)), fault)

        @rule(task_id=ids, key=st.sampled_from(["k1", "k2", "k3"]), fault=faults)
        def twins(self, task_id: str, key: str, fault: str | None) -> None:
            """The same request twice at once, under one key: done once, and answered alike."""
            ask = Ask("POST", "/tasks", json.dumps({**TASK, "id": task_id, "change_id": 7}), key)
            self._try(ask, fault, times=2)

        def _try(self, ask: Ask, fault: str | None, *, times: int = 1) -> None:
            status, after = self.board.answer(ask)
            self.asked.append(ask)
            world.arm(fault)
            answers = world.send(*[ask] * times)
            world.heal()
            self._judge(ask, fault, answers, status, after)

        def _judge(
            self, ask: Ask, fault: str | None, answers: list[Answer], status: int, after: Board
        ) -> None:
            said = f"{ask} with {fault}: {answers}"
            kept = [answer for answer in answers if answer.code < 400]
            unknown = False
            for answer in answers:
                if answer.code == status:
                    continue
                assert answer.code in (503, 504), f"{said}, expected {status}"
                assert fault is not None, f"refused without a fault: {said}"
                assert answer.code == 504 or "Retry-After" in answer.headers
                unknown = unknown or answer.json()["outcome"] == "unknown"
            assert len({answer.body for answer in kept}) <= 1 or ask.key is None, said
            found = board_in(world.sql)
            applied, not_applied = after.differs_from(found), self.board.differs_from(found)
            if kept:
                assert applied is None, f"{said}: {applied}"
            elif not unknown:
                assert not_applied is None, f"{said}: {not_applied}"
            assert applied is None or not_applied is None, f"{said}: {applied}, {not_applied}"
            if kept and ask.key is not None:
                assert found.keys[ask.path, ask.key][2] == kept[0].body, said
            self.board = found

    return BoardMachine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With still less patience."""
    http = settings.http.model_copy(update={"request_timeout_s": TIMEOUT_S})
    return settings.model_copy(update={"http": http})


def explore(world: World, faults: st.SearchStrategy[str | None], *, examples: int, steps: int) -> None:
    """Run the machine."""
    run_state_machine_as_test(
        machine(world, faults),
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
    print(world.answers)


class OneConnection(RawSql):
    """Raw SQL over one connection. Lives as long as that."""

    def __init__(self, connection: Any, sql: RawSql) -> None:
        self._connection = connection
        self._sql = sql

    def __call__(self, statement: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """As `RawSql`'s, and some ten times as fast."""
        with self._connection.cursor() as cursor:
            cursor.execute(self._sql.spelt(statement), parameters)
            if cursor.description is None:
                return []
            return [
                dict(zip([column.name for column in cursor.description], row, strict=True)) for row in cursor
            ]


@pytest.fixture
def world(io_loop: IOLoop, service: Client, proxy: Proxy, sql: RawSql) -> Iterator[World]:
    with sql.connect() as connection:
        yield World(io_loop, service, proxy, OneConnection(connection, sql))


def test_random_requests_and_faults_leave_what_their_answers_say(world: World):
    """After each request the database holds what the model says, row by row, and each key its answer."""
    explore(world, quick_faults, examples=12, steps=20)

    assert world.answers["201"] > 5


@pytest.mark.slow
def test_many_more_of_them_with_slow_faults_too(world: World):
    """Black holes and COMMITs that arrive late, which take a request all of its time."""
    explore(world, all_faults, examples=40, steps=30)

    assert world.answers["503 unknown"] > 0
