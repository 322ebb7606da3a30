"""Faults while clients write: each is made for real, healed, and followed by the five questions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest

from tests.faults.conftest import REQUEST_TIMEOUT_S
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import Proxy

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log")]


@dataclass
class World:
    """What can be broken."""

    cluster: PostgresCluster
    proxy: Proxy
    sql: RawSql
    database_name: str


Fault = Callable[[World], Awaitable[None]]

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

OUTLAST_S = REQUEST_TIMEOUT_S + 0.7
"""Longer than a request may take, and than its connection is given after that."""


async def terminated(world: World) -> None:
    """Backends ended from outside: at rest, in a statement, in COMMIT, as it comes."""
    for _ in range(6):
        world.sql(TERMINATE)
        await asyncio.sleep(0.05)


async def cut(world: World) -> None:
    """Every link reset, several times."""
    for _ in range(6):
        world.proxy.cut()
        await asyncio.sleep(0.05)


async def held(world: World) -> None:
    """Nothing passes for a while, then all of it."""
    with world.proxy.held():
        await asyncio.sleep(0.6)


async def black_hole(world: World) -> None:
    """Nothing passes, whether in a statement or on a new connection, for longer than a request may take."""
    world.proxy.freeze()
    await asyncio.sleep(OUTLAST_S)
    world.proxy.thaw()


async def black_hole_at_commit(world: World) -> None:
    """COMMIT gets lost, and from then on all else."""
    world.proxy.swallow(b"COMMIT")
    await asyncio.sleep(OUTLAST_S)
    world.proxy.thaw()


async def black_hole_after_commit(world: World) -> None:
    """COMMIT arrives; its answer gets lost, and from then on all else."""
    world.proxy.lose_answer_to(b"COMMIT")
    await asyncio.sleep(OUTLAST_S)
    world.proxy.thaw()


async def cut_at_commit(world: World) -> None:
    """One connection breaks as COMMIT is sent: sometimes it arrived, sometimes not."""
    for delivered in (True, False) * 4:
        world.proxy.cut_at(b"COMMIT", delivered=delivered)
        await asyncio.sleep(0.08)


async def cut_at_the_commit_marker(world: World) -> None:
    """One connection breaks when its commit marker is written, which is not a COMMIT yet."""
    for delivered in (True, False) * 3:
        world.proxy.cut_at(b"commit_witness (", delivered=delivered)
        await asyncio.sleep(0.08)


async def commit_that_arrives_late(world: World) -> None:
    """COMMIT is on its way for longer than its client is made to wait, and then it is applied."""
    world.proxy.hold_at(b"COMMIT")
    await asyncio.sleep(OUTLAST_S + 0.5)
    world.proxy.release()


async def forgetful_firewall(world: World) -> None:
    """The links that there are fall silent; new ones work."""
    world.proxy.forget()
    await asyncio.sleep(OUTLAST_S)
    world.proxy.reset_forgotten()


async def stopped_fast(world: World) -> None:
    """PostgreSQL stopped, its clients thrown out, and started again."""
    await asyncio.to_thread(world.cluster.stop, mode="fast")
    await asyncio.sleep(0.2)
    await asyncio.to_thread(world.cluster.start)


async def stopped_immediately(world: World) -> None:
    """PostgreSQL stopped without a shutdown; it recovers at its start, and refuses its clients meanwhile."""
    await asyncio.to_thread(world.cluster.stop, mode="immediate")
    await asyncio.to_thread(world.cluster.start)


async def killed(world: World) -> None:
    """kill -9 for all its processes."""
    await asyncio.to_thread(world.cluster.kill)
    await asyncio.to_thread(world.cluster.start)


async def hanging(world: World) -> None:
    """SIGSTOP: connections are taken, nothing answers, for longer than a request may take."""
    with world.cluster.suspended():
        await asyncio.sleep(OUTLAST_S)


async def read_only(world: World) -> None:
    """The database takes no writes for a while, as a standby does."""
    name = world.database_name
    world.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    world.sql(TERMINATE)
    await asyncio.sleep(0.4)
    with world.sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    world.sql(TERMINATE)


async def crowded(world: World) -> None:
    """Others take all the connections that the server allows, whenever one comes free."""
    with crowd(world.sql) as press:
        for _ in range(8):
            press()
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def crowd(sql: RawSql) -> Iterator[Callable[[], None]]:
    """Gives a function that ends the service's connections and takes what came free."""
    with contextlib.ExitStack() as taken:
        control = taken.enter_context(sql.connect())
        mine = [control.info.backend_pid]

        def press() -> None:
            with control.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 500) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> ALL(%s)",
                    (mine,),
                )
            with contextlib.suppress(psycopg2.OperationalError):
                while True:
                    mine.append(taken.enter_context(sql.connect()).info.backend_pid)

        yield press


async def locked(world: World) -> None:
    """Another transaction locks the table, for longer than a request may take."""
    with world.sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        await asyncio.to_thread(cursor.execute, "LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(OUTLAST_S)
        cursor.execute("ROLLBACK")


QUICK: list[Fault] = [terminated, cut_at_commit]
SLOW: list[Fault] = [
    cut, held, cut_at_the_commit_marker, black_hole, black_hole_at_commit, black_hole_after_commit, read_only,
    commit_that_arrives_late, forgetful_firewall, stopped_fast, stopped_immediately, killed, hanging, crowded,
    locked,
]  # fmt: skip
FAULTS = [
    *(pytest.param(fault, id=fault.__name__) for fault in QUICK),
    *(pytest.param(fault, id=fault.__name__, marks=pytest.mark.slow) for fault in SLOW),
]


def through(driver: str, *faults: Fault, quick: bool) -> Iterator[Any]:
    """Parameters for the same test by way of another driver."""
    marks = () if quick else pytest.mark.slow
    for fault in faults:
        yield pytest.param(fault, f"postgresql+{driver}", id=f"{fault.__name__}-{driver}", marks=marks)


ASYNCIO = [
    *through("asyncpg", terminated, quick=True),
    *through("psycopg", terminated, quick=False),
    *through("asyncpg", *QUICK[1:], *SLOW, quick=False),
    *through("psycopg", *QUICK[1:], *SLOW, quick=False),
]


@pytest.mark.parametrize(
    ("fault", "drivername"),
    [*(pytest.param(*each.values, "postgresql", id=each.id, marks=each.marks) for each in FAULTS), *ASYNCIO],
)
async def test_after_a_fault_all_is_as_the_clients_were_told(
    fault: Fault,
    drivername: str,
    five_questions: FiveQuestions,
    load: Load,
    ledger: Ledger,
    cluster: PostgresCluster,
    proxy: Proxy,
    sql: RawSql,
    database_name: str,
):
    """Acknowledged is there, refused is not, every connection is back, and the next request works."""
    await five_questions.remember()

    async with load:
        await asyncio.sleep(0.2)
        before = ledger.acknowledged
        await fault(World(cluster, proxy, sql, database_name))
        await asyncio.sleep(0.1)

    print(fault.__name__, drivername, dict(ledger.answers))
    assert before > 5, "there was no load"
    await five_questions.ask()
