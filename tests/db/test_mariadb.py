"""What MySQL and MariaDB do their own way, on a real MariaDB."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings, load_settings
from db import Database, Outcome, idempotency
from db.backends.mysql import _tls
from db.base import utc_now
from db.errors import (
    Conflict,
    ConnectionLost,
    ConstraintFailed,
    DatabaseError,
    DeadlinePassed,
    OutcomeUnknown,
    ReadOnlyViolation,
    RetryableConflict,
    SchemaError,
    SessionNotOwned,
    TransactionAborted,
    TransactionEnded,
    Unavailable,
    Unreachable,
)
from db.health import Fault, faults_of, why_not_ready
from db.idempotency import Answer, Key
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.mariadb import MariaDbServer
from tests.fixtures.process import ROOT, StartServer
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.service import create_shelves
from tests.fixtures.waiting import wait_until
from tests.service import model
from tests.service.model import add_book, add_shelf, load_book

pytestmark = pytest.mark.debian

SESSION = text(
    "SELECT @@tx_isolation, @@tx_read_only, @@autocommit, @@time_zone, @@max_statement_time,"
    " @@innodb_lock_wait_timeout, @@character_set_client"
)
ENDLESS = "SELECT count(*) FROM seq_1_to_1000000000000 WHERE sqrt(seq) < 0"

Lock = Callable[[str, str], str]
OwnDatabase = Callable[..., Database]
MakeServer = Callable[..., MariaDbServer]


@pytest.fixture
def backend() -> str:
    return "mariadb"


@pytest.fixture
def database_url(database_url: str) -> str:
    """As elsewhere, with the tables of `tests.service.model`."""
    create_shelves(RawSql(database_url))
    return database_url


@pytest.fixture
def own_database(database_url: str, io_loop: IOLoop) -> Iterator[OwnDatabase]:
    """Makes a Database with settings of one's own; closed at the end."""
    made: list[Database] = []

    def make(url: str = database_url, **settings: Any) -> Database:
        made.append(Database(DatabaseSettings(url=url, **settings)))
        return made[-1]

    yield make
    for database in made:
        io_loop.run_sync(database.close)


# -- sessions


@pytest.mark.parametrize("driver", ["mariadb+pymysql", "mysql+pymysql"])
def test_connections_are_what_the_settings_say(
    own_database: OwnDatabase, database_url: str, driver: str
) -> None:
    """Read committed; in UTC; the reader read-only; with limits. Whatever the URL calls the server."""
    url = database_url.replace("mariadb+pymysql", driver)
    database = own_database(url, statement_timeout_s=11, lock_timeout_s=3)

    with database.session_scope() as session:
        writer = tuple(session.execute(SESSION).one())
        assert database.backend.is_read_only(session.connection()) is False
    with database.session_scope(read_only=True) as session:
        reader = tuple(session.execute(SESSION).one())
        assert database.backend.is_read_only(session.connection()) is True

    assert writer == ("READ-COMMITTED", 0, 0, "+00:00", 11.0, 3, "utf8mb4")
    assert reader[:3] == ("READ-COMMITTED", 1, 1)


@pytest.mark.parametrize("waits", [True, False])
def test_only_the_reader_waits_for_what_other_nodes_have_committed(
    own_database: OwnDatabase, waits: bool
) -> None:
    """A server without Galera has the variable as well, and ignores it."""
    database = own_database(wsrep_sync_wait=waits)
    found = []
    for read_only in (True, False):
        with database.session_scope(read_only=read_only) as session:
            found.append(session.scalar(text("SELECT @@wsrep_sync_wait")))

    assert found == [int(waits), 0]


@pytest.mark.gen_test
@pytest.mark.parametrize("snapshot", [False, True], ids=["reads", "snapshot"])
async def test_the_reader_cannot_write(database: Database, sql: RawSql, snapshot: bool):
    for _ in range(2):  # the second time on a connection that has had one
        with pytest.raises(ReadOnlyViolation):
            async with database.unit_of_work(read_only=True, snapshot=snapshot) as unit:
                await unit.run(model.create_book, unit.session)

    assert sql("SELECT id FROM books") == []


@pytest.mark.gen_test
async def test_a_snapshot_sees_one_state_throughout(database: Database):
    await asyncio.to_thread(add_shelf, database, "a")
    count = text("SELECT count(*) FROM shelves")

    async with database.unit_of_work(read_only=True, snapshot=True) as unit:
        before = await unit.run(lambda session: session.scalar(count), unit.session)
        await asyncio.to_thread(add_shelf, database, "b")
        after = await unit.run(lambda session: session.scalar(count), unit.session)
    async with database.unit_of_work(read_only=True) as unit:
        later = await unit.run(lambda session: session.scalar(count), unit.session)

    assert (before, after, later) == (1, 1, 2)


def test_a_read_is_one_round_trip(database: Database, sql: RawSql) -> None:
    """No ROLLBACK goes out for a reader that is in no transaction: it would go out on the event loop."""
    questions = "SHOW GLOBAL STATUS LIKE 'Questions'"
    with database.session_scope(read_only=True) as session:
        session.scalar(text("SELECT 1"))
    before = int(sql(questions)[0]["Value"])
    for _ in range(10):
        with database.session_scope(read_only=True) as session:
            session.scalar(text("SELECT 1"))
    after = int(sql(questions)[0]["Value"])

    # Each look of ours: SET NAMES, SET AUTOCOMMIT, the question, and the end.
    assert after - before <= 10 + 5


def test_a_reader_that_began_a_transaction_is_thrown_away(database: Database) -> None:
    number = text("SELECT connection_id()")
    with database.session_scope(read_only=True) as session:
        before = session.scalar(number)
        session.connection().connection.begin()  # the driver's own
        session.execute(text("SELECT count(*) FROM shelves"))

    with database.session_scope(read_only=True) as session:
        assert session.scalar(number) != before


# -- what transactions end of


def crossed(lock: Lock, one: str, other: str) -> list[str]:
    """What becomes of two that lock the same rows, each in the other's order."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lock, (one, other), (other, one)))


def test_of_two_in_a_deadlock_one_is_told_to_run_again(database: Database) -> None:
    both = threading.Barrier(2)

    def lock(one: str, other: str) -> str:
        try:
            with database.session_scope() as session:
                model.lock_book(session, book_id=one)
                both.wait(5)
                model.lock_book(session, book_id=other)
        except RetryableConflict as error:
            return error.reason
        return "kept"

    assert sorted(crossed(lock, add_book(database), add_book(database))) == ["deadlock", "kept"]


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "ends"])
def test_a_unit_that_catches_a_deadlock_cannot_keep_the_rest(
    database: Database, sql: RawSql, goes_on: bool
) -> None:
    """The server has rolled everything back, and the next statement would begin another transaction.

    Nor is the outcome of a unit without a further statement "kept".
    """
    both = threading.Barrier(2)

    def lock(one: str, other: str) -> str:
        try:
            with database.session_scope() as session:
                session.execute(text("INSERT INTO shelves (name) VALUES (:name)"), {"name": one})
                model.lock_book(session, book_id=one)
                both.wait(5)
                try:
                    model.lock_book(session, book_id=other)
                except Exception:  # noqa: BLE001  # the mistake in question
                    if goes_on:
                        session.execute(text("INSERT INTO shelves (name) VALUES ('the rest')"))
        except TransactionAborted:
            return "lost"
        return one

    results = crossed(lock, add_book(database), add_book(database))

    assert "lost" in results
    assert [row["name"] for row in sql("SELECT name FROM shelves")] == [
        each for each in results if each != "lost"
    ]


@pytest.mark.parametrize(
    "statement", ["COMMIT", "ROLLBACK", "SET autocommit = 1", "LOCK TABLES shelves READ"]
)
def test_a_statement_that_ends_the_transaction_is_refused(
    database: Database, sql: RawSql, statement: str
) -> None:
    with pytest.raises(SessionNotOwned, match="begin_nested"), database.session_scope() as session:
        model.create_shelf(session, name="a")
        session.execute(text(statement))

    assert sql("SELECT name FROM shelves") == []


def test_ddl_ends_the_transaction_and_is_noticed(database: Database) -> None:
    """What came before is kept then; it cannot be said that it is not."""
    with pytest.raises(TransactionEnded, match="every DDL does"), database.session_scope() as session:
        model.create_shelf(session, name="a")
        session.execute(text("CREATE TABLE extra (n integer)"))


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_what_the_driver_ended_is_not_called_undone_or_kept(database: Database, ending: str) -> None:
    with pytest.raises(TransactionEnded), database.session_scope() as session:
        model.create_shelf(session, name="a")
        getattr(session.connection().connection, ending)()
        model.create_shelf(session, name="b")


@pytest.mark.parametrize(
    ("statements", "look", "clean"),
    [
        (["SET @tenant = 7"], "SELECT @tenant", None),
        (["SET SESSION max_statement_time = 3"], "SELECT @@max_statement_time", 60),
        (["SELECT GET_LOCK('mine', 1)"], "SELECT IS_USED_LOCK('mine')", None),
        (["CREATE TEMPORARY TABLE mine (n integer)"], "SHOW TABLES LIKE 'mine'", None),
    ],
)
def test_what_a_unit_leaves_in_its_session_is_not_the_next_ones(
    own_database: OwnDatabase, statements: list[str], look: str, clean: object
) -> None:
    database = own_database(pool_size=1)
    number = text("SELECT connection_id()")
    with database.session_scope() as session:
        before = session.scalar(number)
        for statement in statements:
            session.execute(text(statement))

    with database.session_scope() as session:
        assert session.scalar(number) != before
        assert session.scalar(text(look)) == clean


def test_a_lock_that_does_not_come_free_is_a_503(own_database: OwnDatabase, sql: RawSql) -> None:
    database = own_database(lock_timeout_s=1)
    book_id = add_book(database)

    with sql.connect() as other, closing(other.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT id FROM books FOR UPDATE")
        with pytest.raises(Unavailable, match="lock"), database.session_scope() as session:
            model.lock_book(session, book_id=book_id)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(own_database: OwnDatabase) -> None:
    database = own_database(statement_timeout_s=0.3)
    began = time.monotonic()

    with pytest.raises(DeadlinePassed), database.session_scope() as session:
        session.execute(text(ENDLESS))

    assert time.monotonic() - began < 3


@pytest.mark.gen_test
async def test_a_statement_is_killed_at_the_deadline_and_the_loop_goes_on(database: Database, sql: RawSql):
    """KILL QUERY goes over a connection of its own, from a thread of its own; nothing has to be cut."""
    began = last = time.monotonic()
    longest_s = 0.0

    async def beat() -> None:
        nonlocal last, longest_s
        while True:
            await asyncio.sleep(0.01)
            longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()

    heart = asyncio.ensure_future(beat())
    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(deadline_at=began + 0.3) as unit:
            await unit.run(lambda session: session.execute(text(ENDLESS)), unit.session)
    heart.cancel()

    assert time.monotonic() - began < 2
    assert longest_s < 0.25
    running = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT count(*) FROM seq%'"
    assert wait_until(lambda: sql(running) == [])


# -- what the data says


def refusal(database: Database, statement: str, **parameters: object) -> Conflict:
    with pytest.raises(Conflict) as caught, database.session_scope() as session:
        session.execute(text(statement), parameters)
    return caught.value


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({}, "pk_books"),
        ({"id": "x"}, "ck_books_id"),
        ({"id": "A" * 32}, "ck_books_id"),
        ({"id": "b" * 32, "shelf_id": 404}, "fk_books_shelf_id_shelves"),
        ({"id": "b" * 32, "format": "scroll"}, "ck_books_format"),
        ({"id": "b" * 32, "title": ""}, "ck_books_title"),
    ],
)
def test_a_refusal_names_its_constraint(database: Database, change: dict[str, Any], constraint: str) -> None:
    add_book(database, id="a" * 32)
    row = {"id": "a" * 32, "title": "a book", "format": "folio", "shelf_id": None} | change

    error = refusal(
        database,
        "INSERT INTO books (id, title, format, shelf_id) VALUES (:id, :title, :format, :shelf_id)",
        **row,
    )

    assert error.constraint == constraint


@pytest.mark.parametrize("columns", ["id, name", "id"])
def test_a_null_without_a_sentence_is_a_fault_that_names_table_and_column(
    database: Database, columns: str
) -> None:
    """The table is the statement's, the column the message's."""
    values = "1, NULL" if "name" in columns else "1"

    with pytest.raises(ConstraintFailed) as caught, database.session_scope() as session:
        session.execute(text(f"INSERT INTO shelves ({columns}) VALUES ({values})"))

    assert (caught.value.constraint, caught.value.table) == ("NOT NULL shelves.name", "shelves")


def test_a_row_that_is_referred_to_stays(database: Database) -> None:
    shelf_id = add_shelf(database, "a")
    add_book(database, shelf_id=shelf_id)

    error = refusal(database, "DELETE FROM shelves WHERE id = :id", id=shelf_id)

    assert error.constraint == "fk_books_shelf_id_shelves"


def test_a_name_that_looks_like_the_message_does_not_confuse_it(database: Database) -> None:
    name = "x' for key 'uq_other"
    add_shelf(database, name)

    error = refusal(database, "INSERT INTO shelves (name) VALUES (:name)", name=name)

    assert error.constraint == "uq_shelves_name"


def test_a_value_that_is_too_long_is_refused_not_cut(database: Database) -> None:
    with pytest.raises(DatabaseError, match="1406"), database.session_scope() as session:
        session.execute(text("INSERT INTO shelves (name) VALUES (:name)"), {"name": "x" * 65})


def test_text_comes_back_as_it_was_and_capitals_are_not_small_letters(database: Database) -> None:
    """Four bytes a character, 64 characters and not bytes; also where the server's own default is latin1."""
    name = "🜚" * 64
    for each in (name, "a", "A"):
        add_shelf(database, each)

    with database.session_scope(read_only=True) as session:
        assert [shelf.name for shelf in model.list_shelves(session)] == [name, "a", "A"]


def test_moments_have_microseconds_and_are_in_utc(database: Database, sql: RawSql) -> None:
    book = load_book(database, add_book(database))
    sql("INSERT INTO shelves (name) VALUES ('by default')")
    with database.session_scope(read_only=True) as session:
        [shelf] = model.list_shelves(session)
        by_default = shelf.create_time

    stored = datetime.fromisoformat(str(sql("SELECT create_time FROM books")[0]["create_time"]))
    assert book.create_time == stored.replace(tzinfo=UTC)
    assert book.create_time.microsecond
    assert by_default.microsecond
    assert -1 < (utc_now() - by_default).total_seconds() < 20


def test_json_is_kept_as_it_was_written(database: Database) -> None:
    keys = {"b": 1e23, "a": [True, None, "🜚", 1.0], "": {}}
    book = load_book(database, add_book(database, notes=keys))

    assert book.notes == keys
    assert list(book.notes) == ["b", "a", ""]


def test_workers_that_claim_at_once_are_given_different_rows(database: Database) -> None:
    oldest = [add_book(database) for _ in range(4)]
    first_has, second_has = threading.Event(), threading.Event()

    def first() -> list[str]:
        with database.session_scope() as session:
            taken = [book.id for book in model.lend_books(session, limit=2)]
            first_has.set()
            assert second_has.wait(5)
            return taken

    def second() -> list[str]:
        assert first_has.wait(5)
        try:
            with database.session_scope() as session:
                return [book.id for book in model.lend_books(session, limit=2)]
        finally:
            second_has.set()

    with ThreadPoolExecutor(2) as threads:
        results = [future.result(10) for future in (threads.submit(first), threads.submit(second))]

    assert results == [oldest[:2], oldest[2:]]


@pytest.mark.gen_test
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "undone"])
async def test_an_idempotency_key_is_claimed_once(database: Database, kept: bool):
    """The second waits for the first; then it is given its answer, or the key."""
    key, answer = Key("POST", "/books", "k"), Answer(201, {"Location": "/books/1"}, b"\x00\xff" * 40_000)

    def claim(session: Session) -> Answer | None:
        return idempotency.claim_key(session, key=key, request_body=b"{}")

    def claim_in_a_scope() -> Answer | None:
        with database.session_scope() as session:
            return claim(session)

    unit = database.unit_of_work()
    assert await unit.run(claim, unit.session) is None
    second = asyncio.get_running_loop().run_in_executor(None, claim_in_a_scope)
    await asyncio.sleep(0.2)
    assert not second.done()
    await unit.run(lambda session: idempotency.keep_answer(session, key=key, answer=answer), unit.session)
    await unit.settle(keep=kept)

    assert await second == (answer if kept else None)


# -- links


@pytest.fixture
def proxy(mariadb_server: MariaDbServer, make_proxy: MakeProxy) -> Proxy:
    """Between the service and its server."""
    return make_proxy(("127.0.0.1", mariadb_server.port))


@pytest.fixture
def through(
    own_database: OwnDatabase, database_url: str, proxy: Proxy, mariadb_server: MariaDbServer
) -> Database:
    """One connection of each kind, by way of the proxy, in the clear."""
    url = database_url.replace(f":{mariadb_server.port}/", f":{proxy.port}/")
    return own_database(f"{url}?sslmode=disable", pool_size=1, pool_ping_after_s=0, connect_timeout_s=2)


@pytest.mark.gen_test
async def test_a_commit_whose_answer_is_lost_is_unknown(through: Database, proxy: Proxy, sql: RawSql):
    """There is no commit marker here."""
    unit = through.unit_of_work()
    await unit.run(model.create_book, unit.session)
    proxy.cut_at(b"COMMIT", delivered=True)

    with pytest.raises(OutcomeUnknown):
        await unit.settle(keep=True)

    assert unit.outcome is Outcome.UNKNOWN
    assert wait_until(lambda: len(sql("SELECT id FROM books")) == 1)


@pytest.mark.gen_test
@pytest.mark.parametrize("applied", [True, False])
async def test_a_commit_that_the_server_calls_failed_may_be_applied_and_is_unknown(
    through: Database, proxy: Proxy, sql: RawSql, applied: bool
):
    """1180, as of a Galera node that lost its cluster while it sent the transaction; and its connection,
    whose transaction is in doubt, has no further user."""
    unit = through.unit_of_work()
    await unit.run(model.create_book, unit.session)
    told = b'#HY000Got error 6 "No such device or address" during COMMIT'
    packet = b"\xff" + (1180).to_bytes(2, "little") + told
    proxy.answer(b"COMMIT", len(packet).to_bytes(3, "little") + b"\x01" + packet, delivered=applied)

    with pytest.raises(OutcomeUnknown):
        await unit.settle(keep=True)
    before = proxy.accepted
    async with through.unit_of_work() as following:
        await following.run(model.create_book, following.session)

    assert unit.outcome is Outcome.UNKNOWN
    assert wait_until(lambda: len(sql("SELECT id FROM books")) == 1 + applied)
    assert proxy.accepted == before + 1


@pytest.mark.gen_test
async def test_a_commit_that_hangs_keeps_its_slot_and_is_told_whatever_it_waits_for(
    own_mariadb_server: MakeServer, expect_log: ExpectLog
):
    """Here for a replica that is not there, up to a limit of the server's. It does not tell what for."""
    server = own_mariadb_server(options={"log-bin": "log", "rpl-semi-sync-master-timeout": "4000"})
    name = server.create_database()
    server._execute(f"CREATE TABLE {name}.notes (body TEXT)")
    server._execute("SET GLOBAL rpl_semi_sync_master_enabled = ON")
    database = Database(DatabaseSettings(url=server.url_for(name), pool_size=2))
    faults: list[Fault] = []

    with expect_log("onfinish.db", "did not end it in time"), pytest.raises(OutcomeUnknown):
        async with database.unit_of_work(deadline_at=time.monotonic() + 0.5) as unit:
            await unit.run(
                lambda session: session.execute(text("INSERT INTO notes VALUES ('')")), unit.session
            )
    taken = database.writer.limiter.taken
    while not faults and database.writer.limiter.taken:
        faults = await faults_of(database, revision=None)
        await asyncio.sleep(0.1)

    assert taken == 1
    assert [each.told.partition(":")[0] for each in faults] == ["no COMMIT succeeds"]
    assert await asyncio.to_thread(wait_until, lambda: not database.writer.limiter.taken, timeout_s=10)
    assert await faults_of(database, revision=None) == []
    await database.close()


@pytest.mark.gen_test
async def test_a_black_hole_ends_at_the_deadline_and_the_pool_is_whole(
    through: Database, proxy: Proxy, expect_log: ExpectLog
):
    """Neither the statement nor its KILL is answered: the link is cut."""
    async with through.unit_of_work() as unit:
        await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)
    proxy.freeze()
    began = time.monotonic()

    # The pool tries to connect anew, which has a limit of its own; the answer does not wait for it.
    with expect_log("onfinish.db", "its connection is cut|its work hangs"), pytest.raises(DeadlinePassed):
        async with through.unit_of_work(deadline_at=began + 0.3) as unit:
            await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)
    assert time.monotonic() - began < 3
    while through.writer.limiter.taken:
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 6
    proxy.thaw()

    async with through.unit_of_work() as unit:
        assert await unit.run(lambda session: session.scalar(text("SELECT 2")), unit.session) == 2


def test_a_connection_killed_while_idle_costs_no_request(own_database: OwnDatabase, sql: RawSql) -> None:
    database = own_database(pool_ping_after_s=0)
    for read_only in (False, True):
        with database.session_scope(read_only=read_only) as session:
            number = session.scalar(text("SELECT connection_id()"))
        sql(f"KILL {number}")
        with database.session_scope(read_only=read_only) as session:
            assert session.scalar(text("SELECT connection_id()")) != number


def test_a_connection_killed_in_mid_work_is_a_connection_lost(database: Database, sql: RawSql) -> None:
    with pytest.raises(ConnectionLost), database.session_scope() as session:
        number = session.scalar(text("SELECT connection_id()"))
        sql(f"KILL {number}")
        session.execute(text("SELECT 1"))

    add_shelf(database, "and the next works")


def test_a_server_that_does_not_let_in_is_unreachable(
    own_database: OwnDatabase, database_url: str, mariadb_server: MariaDbServer
) -> None:
    for url in (
        database_url.replace(mariadb_server.password, "guessed"),
        database_url.replace(f":{mariadb_server.port}/", ":1/"),
    ):
        database = own_database(url)
        with pytest.raises(Unreachable) as caught, database.session_scope() as session:
            session.execute(text("SELECT 1"))
        assert "guessed" not in str(caught.value)


def test_too_many_connections_are_a_503(own_mariadb_server: MakeServer) -> None:
    server = own_mariadb_server(options={"max-connections": "10"})
    others = [server.connect() for _ in range(11)]  # and one more for a superuser
    database = Database(DatabaseSettings(url=server.url_for("mysql")))

    with pytest.raises(Unreachable), database.session_scope() as session:
        session.execute(text("SELECT 1"))

    for other in others:
        other.close()
    database.dispose()


# -- TLS, with libpq's words, which production's settings are written in

IS_ENCRYPTED = text("SHOW SESSION STATUS LIKE 'Ssl_version'")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def with_certificate(start: MakeServer, authority: trustme.CA, host: str) -> MariaDbServer:
    certificate = authority.issue_cert(host)
    return start(
        files={
            "server.key": certificate.private_key_pem.bytes(),
            "server.crt": b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
        },
        options={"ssl-cert": "{folder}/server.crt", "ssl-key": "{folder}/server.key"},
    )


def production(server: MariaDbServer, authority: trustme.CA, folder: Path) -> Database:
    """What production starts with, given the URL alone; says nothing of sslmode."""
    root = folder / "root.crt"
    authority.cert_pem.write_to_path(root)
    url = server.url_for("mysql", sslrootcert=str(root)).replace("127.0.0.1", "localhost")
    return Database(load_settings({}, {"ENVIRONMENT": "production", "DATABASE_URL": url}).database)


def test_production_connects_encrypted(
    own_mariadb_server: MakeServer, authority: trustme.CA, tmp_path: Path
) -> None:
    server = with_certificate(own_mariadb_server, authority, "localhost")
    database = production(server, authority, tmp_path)

    for read_only in (False, True):
        with database.session_scope(read_only=read_only) as session:
            assert session.execute(IS_ENCRYPTED).one()[1].startswith("TLSv1.")

    database.dispose()


@pytest.mark.gen_test
async def test_a_statement_on_an_encrypted_connection_is_killed_too(
    own_mariadb_server: MakeServer, authority: trustme.CA, tmp_path: Path
):
    """Over another encrypted one. Nothing has to be cut, which would be logged."""
    server = with_certificate(own_mariadb_server, authority, "localhost")
    database = production(server, authority, tmp_path)
    began = time.monotonic()

    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(deadline_at=began + 0.3) as unit:
            await unit.run(lambda session: session.execute(text(ENDLESS)), unit.session)

    assert time.monotonic() - began < 2
    await database.close()


@pytest.mark.parametrize("fault", ["another authority", "another host", "no TLS"])
def test_production_refuses_a_server_that_it_cannot_verify(
    own_mariadb_server: MakeServer, authority: trustme.CA, tmp_path: Path, fault: str
) -> None:
    if fault == "no TLS":
        server = own_mariadb_server()
    else:
        host = "other.example" if fault == "another host" else "localhost"
        server = with_certificate(own_mariadb_server, authority, host)
    trusted = trustme.CA() if fault == "another authority" else authority
    database = production(server, trusted, tmp_path)

    with pytest.raises(Unreachable), database.session_scope() as session:
        session.execute(IS_ENCRYPTED)

    database.dispose()


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'verify_full' is not known"):
        _tls({"sslmode": "verify_full"})


# -- the schema


@pytest.fixture
def empty(mariadb_server: MariaDbServer) -> Iterator[str]:
    """The name of an empty database."""
    name = mariadb_server.create_database()
    yield name
    mariadb_server.drop_database(name)


@pytest.mark.parametrize("driver", ["mariadb+pymysql", "mysql+pymysql"])
def test_migrations_make_what_the_code_expects(
    mariadb_server: MariaDbServer, empty: str, driver: str
) -> None:
    settings = DatabaseSettings(url=mariadb_server.url_for(empty, driver))
    assert db.schema.migrate.current(settings) is None

    with ThreadPoolExecutor(3) as threads:  # several hosts start at once
        list(threads.map(lambda _: db.schema.migrate.upgrade(settings), range(3)))

    assert db.schema.migrate.current(settings) == db.schema.migrate.head()
    assert db.schema.migrate.drift(settings) == []


def test_the_sql_of_the_schema_makes_the_schema(mariadb_server: MariaDbServer, empty: str) -> None:
    settings = DatabaseSettings(url=mariadb_server.url_for(empty))
    script = db.schema.migrate.sql(settings)
    raw = RawSql(mariadb_server.url_for(empty))

    with raw.connect() as connection, closing(connection.cursor()) as cursor:
        for statement in filter(None, (each.strip() for each in script.split(";"))):
            cursor.execute(statement)

    assert db.schema.migrate.drift(settings) == []


def test_a_migration_waits_for_another_and_says_so_when_it_does_not_end(
    mariadb_server: MariaDbServer, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "SELECT GET_LOCK(CONCAT('onfinish.', SHA1(DATABASE())), 0)"
    monkeypatch.setattr("db.schema.guards._TAKE_LOCK", lock)
    settings = DatabaseSettings(url=mariadb_server.url_for(empty))

    with RawSql(mariadb_server.url_for(empty)).connect() as other, closing(other.cursor()) as cursor:
        cursor.execute(lock)
        with pytest.raises(SchemaError, match="another migration is under way"):
            db.schema.migrate.upgrade(settings)

    assert db.schema.migrate.current(settings) is None


# -- the service


@pytest.mark.gen_test
async def test_it_is_ready(database: Database):
    assert await why_not_ready(database, revision=db.schema.migrate.head()) is None


def test_the_service_runs_on_it(database_url: str, start_server: StartServer) -> None:
    process = start_server(url=database_url)

    created = process.request("POST", "/shelves", {"name": "Ünited 🜚"})
    assert created.status == 201
    assert process.request("GET", f"/shelves/{created.body['id']}").body["name"] == "Ünited 🜚"
    assert process.request("POST", "/shelves", {"name": "Ünited 🜚"}).status == 409


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_check_finds_nothing_wrong(mariadb_server: MariaDbServer, empty: str) -> None:
    url = mariadb_server.url_for(empty)
    db.schema.migrate.upgrade(DatabaseSettings(url=url))

    done = run("check", "--database-url", url)

    assert done.returncode == 0, done
    assert "MariaDB 10." in done.stdout
