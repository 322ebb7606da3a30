"""The slots of COMMITs that were cut: each is free again, whatever becomes of server and service."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.capacity import left_commits
from db.errors import OutcomeUnknown
from db.health import Fault, faults_of
from db.observer import Observer
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster, free_port
from tests.fixtures.waiting import wait_until

MakeDatabase = Callable[[str], Database]


class Left(Observer):
    """How many are kept. Lives as long as its database."""

    count = 0

    def left(self, change: int) -> None:
        self.count += change


@pytest.fixture
def observer() -> Left:
    return Left()


@pytest.fixture
def open_database(monkeypatch: pytest.MonkeyPatch, observer: Left) -> Iterator[MakeDatabase]:
    """``open_database(url)`` is a database that asks for such COMMITs often."""
    monkeypatch.setattr(left_commits, "_LOOK_EVERY_S", 0.05)
    opened: list[Database] = []

    def open_database(url: str) -> Database:
        opened.append(Database(DatabaseSettings(url=url, pool_size=3, commit_witness=False), observer))
        return opened[-1]

    yield open_database
    for database in opened:
        database.dispose()


def keep(database: Database, pid: int) -> None:
    database.registry.left.keep(database.writer.limiter.acquire_blocking(1.0), pid)


def test_a_slot_is_free_a_while_after_the_server_was_asked_last(
    open_database: MakeDatabase, observer: Left, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(left_commits, "_UNASKED_S", 0.5)
    database = open_database(f"postgresql://127.0.0.1:{free_port()}/nowhere")

    keep(database, 1)
    time.sleep(0.2)
    taken = database.writer.limiter.taken

    assert taken == 1
    assert wait_until(lambda: not database.writer.limiter.taken, timeout_s=5)
    assert wait_until(lambda: observer.count == 0)


def test_a_session_that_has_the_id_of_an_older_one_is_not_waited_for(
    open_database: MakeDatabase, postgres_cluster: PostgresCluster
):
    """It is at a statement that began after the COMMIT was cut."""
    name = postgres_cluster.create_database()
    database = open_database(postgres_cluster.url_for(name))
    with postgres_cluster.admin_connection(name) as busy, busy.cursor() as cursor:
        pid = busy.info.backend_pid
        working = threading.Thread(target=cursor.execute, args=("SELECT pg_sleep(2)",))
        working.start()
        assert wait_until(lambda: "active: SELECT pg_sleep" in "".join(postgres_cluster.connections_to(name)))

        keep(database, pid)
        [of_another] = database.registry.left._left
        of_another.cut_at -= 60
        keep(database, pid)

        assert wait_until(lambda: database.writer.limiter.taken == 1, timeout_s=1)
        working.join()
    assert wait_until(lambda: not database.writer.limiter.taken, timeout_s=5)
    database.dispose()
    postgres_cluster.drop_database(name)


@pytest.mark.gen_test
async def test_a_commit_that_is_slow_by_itself_is_no_reason_to_send_requests_elsewhere(
    open_database: MakeDatabase, postgres_cluster: PostgresCluster, observer: Left, expect_log: ExpectLog
):
    """A deferred trigger takes longer than the request has. Its slot is kept, and other COMMITs succeed."""
    name = postgres_cluster.create_database()
    database = open_database(postgres_cluster.url_for(name))
    RawSql(postgres_cluster.url_for(name)).run_each(
        [
            "CREATE TABLE notes ()",
            "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER takes_time AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION take_time()",
        ]
    )
    faults: list[Fault] = []

    with expect_log("onfinish.db", "did not end it in time"), pytest.raises(OutcomeUnknown):
        async with database.unit_of_work(deadline_at=time.monotonic() + 0.3) as unit:
            await unit.run(write_a_note, unit.session)
    for _ in range(10):
        faults += await faults_of(database, revision=None)
        await asyncio.sleep(0.03)
    kept = (len(database.registry.left), observer.count)

    assert faults == []
    assert kept == (1, 1)
    assert await asyncio.to_thread(wait_until, lambda: not database.writer.limiter.taken, timeout_s=5)
    await database.close()
    postgres_cluster.drop_database(name)


def test_closing_releases_what_the_server_is_still_at(database_url: str, observer: Left):
    database = Database(DatabaseSettings(url=database_url), observer)
    keep(database, 1)
    kept = observer.count

    database.dispose()

    assert (kept, observer.count, database.writer.limiter.taken) == (1, 0, 0)


def test_closing_does_not_wait_for_a_server_that_is_asked_and_does_not_answer():
    """The thread that asks ends by its own time-out, and holds up no end of the process."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/nowhere"
        database = Database(DatabaseSettings(url=url, connect_timeout_s=2))
        keep(database, 1)
        asked, _ = silent.accept()

        began = own_time()
        database.dispose()
        took_s = own_time() - began

        asked.close()
    assert took_s < 0.7
    assert database.writer.limiter.taken == 0
    assert wait_until(lambda: all("left-commits" not in each.name for each in threading.enumerate()))


def test_a_slot_is_not_kept_for_a_commit_that_no_thread_can_ask_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Else it would be taken, and /readyz be 503, for good."""
    database = Database(DatabaseSettings(url=database_url))
    try:
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", no_thread)
            keep(database, 1)

        assert (len(database.registry.left), database.writer.limiter.taken) == (0, 0)
    finally:
        database.dispose()


def write_a_note(session: Session) -> None:
    session.execute(text("INSERT INTO notes DEFAULT VALUES"))


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
