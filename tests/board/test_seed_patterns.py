"""The patterns of `docs/patterns.md` that no other test shows, as the notes have them and as they are."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, inspect, select, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import QueuePool, StaticPool
from tornado.web import Application, RequestHandler

from conf import DatabaseSettings, load_settings
from db import Database, make_engine, make_url
from db.board.tasks import CANCELLED, NewTask, Task, create_task, update_task
from db.board.teams import Team, create_team, list_teams
from db.board.transfers import list_transfers, transfer_task
from db.errors import Conflict, SessionSettled
from db.schema import migrate
from handlers import ApiHandler
from server.compare.lint import lint
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.executor("threads")  # the patterns have plain sessions, on the engine itself

ROOT = Path(__file__).resolve().parents[2]
TASK_ID = "f2ee55c638084ebfb35a00c003670ad9"

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def new_task(**fields: object) -> NewTask:
    """The notes' task, as the model functions take it."""
    task = NewTask(id=TASK_ID, bundle="store", granularity="daily", target_date=date(2020, 4, 1), change_id=3)
    task.update(fields)  # type: ignore[typeddict-item]
    return task


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that an engine sends in the block."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


# -- engines and the factory


def _calls_of(name: str, package: str) -> set[str]:
    """The modules of a package in which something called ``name`` is called or subclassed."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            used = (
                [node.func]
                if isinstance(node, ast.Call)
                else node.bases
                if isinstance(node, ast.ClassDef)
                else []
            )
            if any(getattr(each, "id", getattr(each, "attr", None)) == name for each in used):
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_engines_and_sessions_are_made_in_one_place_each():
    """One module makes engines, one makes sessions; what is only there to be compared with makes its own."""
    packages = ("conf", "db", "handlers", "server")

    def callers(name: str) -> set[str]:
        found = {place for package in packages for place in _calls_of(name, package)}
        return {place for place in found if not place.startswith(("db/scope/", "server/compare/"))}

    assert callers("create_engine") == {"db/engines/engine.py"}
    assert callers("_class") == {"db/work/session.py"}
    # Its two subclasses; commit markers are read on a connection outside of any unit of work.
    assert callers("Session") == {"db/work/session.py", "db/idempotency.py"}
    assert callers("sessionmaker") | callers("scoped_session") == set()


def test_the_boards_model_functions_do_nothing_that_the_comparison_shows_to_be_wrong():
    assert lint([ROOT / "db" / "board"]) == []


def test_each_environment_has_its_engine():
    """A file for development, memory for tests, PostgreSQL with TLS and pre-ping for production."""
    url = "postgresql://user:password@host/name"
    development, testing = (
        load_settings({"environment": name}, environ={}).database for name in ("development", "testing")
    )
    production = load_settings({"environment": "production"}, environ={"DATABASE_URL": url}).database

    assert make_url(development).database == "onfinish.db"
    assert isinstance(make_engine(development).pool, QueuePool)
    assert isinstance(make_engine(testing).pool, StaticPool)
    assert make_url(production).query == {"sslmode": "verify-full"}
    assert make_url(production).drivername == "postgresql+psycopg2"
    assert (production.pool_pre_ping, production.pool_recycle_s, production.connect_timeout_s) == (
        True,
        1800,
        5,
    )
    assert (production.echo, testing.echo) == (False, False)


def test_the_tables_come_from_migrations_and_are_those_of_the_models(database_settings):
    """`create_all` is for scratch databases of the comparison, for applications and their tests; what Alembic
    makes does not differ from the models."""
    assert {
        place for package in ("db", "handlers", "server") for place in _calls_of("create_all", package)
    } == {"db/database.py", "server/compare/scratch.py", "server/testing/databases.py"}
    assert migrate.drift(database_settings) == []


# -- the session's life


def test_session_scope_keeps_undoes_and_closes(database, sql):
    """Kept at the end of the block; undone where it raises, and the error travels; closed in both cases."""
    with database.session_scope() as kept:
        create_team(kept, name="Store")
    with pytest.raises(ZeroDivisionError), database.session_scope() as undone:
        create_team(undone, name="Shop")
        raise ZeroDivisionError

    assert sql("SELECT name FROM teams") == [{"name": "Store"}]
    for session in (kept, undone):
        with pytest.raises(SessionSettled, match="session_scope"):
            session.scalars(select(Team))
    assert database.writer.engine.pool.checkedout() == 0


class TwoAtOnce(RequestHandler):
    """Handlers that wait for each other, so that two requests are under way at once."""

    def initialize(self, meet: Callable[[], object], seen: list[object]) -> None:
        self.meet = meet
        self.seen = seen


class OwnSession(ApiHandler, TwoAtOnce):
    """`POST ?name=…`: adds a team, waits for the other request, and fails where ``fail`` is given."""

    async def post(self) -> None:
        await self.run(create_team, self.session, name=self.get_argument("name"))
        self.seen.append(id(self.session))
        await self.meet()  # type: ignore[misc]
        self.set_status(409 if self.get_argument("fail", "") else 201)


def meeting(parties: int) -> Callable[[], object]:
    """``await meet()`` returns when ``parties`` have come."""
    come = 0
    all_here = asyncio.Event()

    async def meet() -> None:
        nonlocal come
        come += 1
        if come == parties:
            all_here.set()
        await all_here.wait()

    return meet


@on_postgresql  # SQLite has one writer at a time, so two could not meet
@pytest.mark.gen_test
async def test_two_requests_at_once_have_a_session_each(database, serve, sql, expect_log):
    """One is refused and undone, the other kept: neither sees or takes along the other's rows."""
    seen: list[object] = []
    arguments = {"meet": meeting(2), "seen": seen}
    client = serve(Application([("/", OwnSession, arguments)], database=database))

    with expect_log("tornado.access", "409"):
        kept, undone = await asyncio.gather(
            client.post("/?name=Store", b""), client.post("/?name=Shop&fail=1", b"")
        )

    assert (kept.code, undone.code) == (201, 409)
    assert len(set(seen)) == 2
    assert sql("SELECT name FROM teams") == [{"name": "Store"}]


def test_the_same_function_serves_a_script_and_a_test_in_memory(database, io_loop):
    """It is given its session, so nothing of it is about where that came from."""
    memory = Database(DatabaseSettings(url="sqlite://"))
    try:
        with memory.writer.engine.begin() as connection:
            migrate.upgrade_on(connection)
        names = []
        for each in (database, memory):
            with each.session_scope() as session:
                create_team(session, name="Store")
            with each.session_scope(read_only=True) as session:
                names.append([team.name for team in list_teams(session)])
    finally:
        io_loop.run_sync(memory.close)

    assert names == [["Store"], ["Store"]]


def test_a_refused_transfer_leaves_task_and_log_as_they_were(database, sql):
    """The notes' transfer: the move and its log row together or neither, in the transaction of the caller."""
    with database.session_scope() as session:
        store, shop = create_team(session, name="Store").id, create_team(session, name="Shop").id
        create_task(session, new=new_task(team_id=store))
        transfer_task(session, task_id=TASK_ID, from_team_id=store, to_team_id=shop, note="first look")

    with pytest.raises(Conflict), database.session_scope() as session:
        transfer_task(session, task_id=TASK_ID, from_team_id=shop, to_team_id=store)
        transfer_task(
            session, task_id=TASK_ID, from_team_id=shop, to_team_id=store
        )  # it is not there any more

    assert sql("SELECT team_id, version FROM tasks") == [{"team_id": shop, "version": 2}]
    assert sql("SELECT from_team_id, to_team_id, note FROM transfers") == [
        {"from_team_id": store, "to_team_id": shop, "note": "first look"}
    ]
    with database.session_scope(read_only=True) as session:
        assert [each.note for each in list_transfers(session, task_id=TASK_ID)] == ["first look"]


# -- rows


@pytest.fixture
def five_teams(database: Database) -> None:
    """Five rows to load."""
    with database.session_scope() as session:
        for number in range(5):
            create_team(session, name=f"Team {number}")


def test_a_commit_expires_rows_and_each_costs_a_select(database, five_teams):
    """SQLAlchemy's default: after COMMIT every row that is touched is loaded again, one by one."""
    engine = database.writer.engine
    with Session(engine) as session:
        teams = session.scalars(select(Team)).all()
        session.commit()
        with statements(engine) as sent:
            assert len({team.name for team in teams}) == 5

    assert len([statement for statement in sent if statement.startswith("SELECT")]) == 5


def test_a_commit_here_expires_nothing(database, five_teams):
    """The unit of work ends with its COMMIT, so there is nothing to load again: answers cost no query."""
    engine = database.writer.engine
    with database.session_scope() as session:
        teams = session.scalars(select(Team)).all()
        assert session.expire_on_commit is False
    with statements(engine) as sent:
        assert len({team.name for team in teams}) == 5

    assert sent == []


def test_what_the_database_makes_is_there_after_a_flush(database):
    """The notes refresh after the commit to see generated values; a flush is enough, and comes before it."""
    with database.session_scope() as session:
        team = Team(name="Store")
        session.add(team)
        session.flush()

        assert isinstance(team.id, int)
        assert team.create_time.tzinfo is UTC


def test_an_expired_row_is_what_others_have_made_of_it(database, sql):
    """A unit of work that has to look again says `refresh`; what it has loaded does not change by itself."""
    with database.session_scope() as session:
        create_task(session, new=new_task())
    with database.session_scope(read_only=True) as session:
        task = session.get_one(Task, TASK_ID)
        sql("UPDATE tasks SET bundle = :bundle", bundle="shop")
        assert task.bundle == "store"

        session.refresh(task)

        assert task.bundle == "shop"


def test_a_change_of_an_expunged_row_writes_nothing(database, sql):
    """Changing it writes nothing. What stays in the session is written, asked for or not."""
    with database.session_scope() as session:
        create_team(session, name="Store")
        create_team(session, name="Shop")

    with database.session_scope() as session:
        loose, bound = session.scalars(select(Team).order_by(Team.id))
        session.expunge(loose)
        loose.name, bound.name = "changed", "renamed"
        assert inspect(loose).detached

    assert sql("SELECT name FROM teams ORDER BY id") == [{"name": "Store"}, {"name": "renamed"}]
    assert loose.name == "changed"


def test_expunge_all_takes_each_row_out_of_the_session(database, sql):
    with database.session_scope() as session:
        create_team(session, name="Store")

    with database.session_scope() as session:
        [team] = session.scalars(select(Team))
        session.add(pending := Team(name="Shop"))
        session.expunge_all()
        team.name = "changed"
        assert (inspect(team).detached, inspect(pending).transient) == (True, True)

    assert sql("SELECT name FROM teams") == [{"name": "Store"}]


def test_a_query_sees_what_its_session_has_written_and_without_autoflush_does_not(database):
    """By `session.query`, as the notes have it, which works as ever."""
    with database.session_scope() as session:
        session.add(team := Team(name="Store"))

        assert session.query(Team).filter(Team.name == "Store").first() is team

    with Session(database.writer.engine, autoflush=False) as session:
        session.add(Team(name="Shop"))

        assert session.query(Team).filter(Team.name == "Shop").first() is None


# -- using a session again


def test_a_plain_session_begins_again_after_each_commit(database, sql):
    """As the notes say: one session, any number of transactions; a rollback undoes only the last of them."""
    with Session(database.writer.engine) as session:
        session.add(Team(name="Store"))
        session.commit()
        session.add(Team(name="Shop"))
        session.flush()
        session.rollback()
        session.add(Team(name="Depot"))
        session.commit()

    assert sql("SELECT name FROM teams ORDER BY id") == [{"name": "Store"}, {"name": "Depot"}]


def test_a_unit_of_works_session_does_not_begin_again(database):
    """Here a session is one transaction: used after its end, it says whose it was and what to do."""
    with database.session_scope(label="nightly job") as session:
        create_team(session, name="Store")

    with pytest.raises(SessionSettled, match=r"nightly job: its session was used after it had been settled"):
        create_team(session, name="Shop")


def test_many_short_transactions_are_many_scopes(database, sql):
    """A job that keeps what it has done so far opens a scope for each part; all use one connection."""
    with statements(database.writer.engine):
        for name in ("Store", "Shop"):
            with database.session_scope() as session:
                create_team(session, name=name)

    assert len(sql("SELECT id FROM teams")) == 2
    assert database.writer.engine.pool.checkedin() == 1


# -- raw SQL


def test_the_notes_raw_sql_runs_with_text(database, sql):
    """The QA task's INSERT, SELECT, UPDATE and DELETE; rows have types where a model is named."""
    first_task = select(Task).from_statement(text("SELECT * FROM tasks LIMIT 1"))
    with database.session_scope() as session:
        session.execute(
            text(
                "INSERT INTO tasks"
                " (id, task_status, s3_keys, create_time, bundle, granularity, target_date, change_id)"
                " VALUES (:id, 101, '{}', '2020-03-01', 'store', 'daily', '2020-04-01', 3)"
            ),
            {"id": TASK_ID},
        )
        task = session.scalars(first_task).one()
        assert (task.id, task.task_status, task.s3_keys) == (TASK_ID, 101, {})
        assert task.create_time == datetime(2020, 3, 1, tzinfo=UTC)
        assert (task.bundle, task.granularity) == ("store", "daily")
        assert (task.target_date, task.change_id) == (date(2020, 4, 1), 3)
        assert task.update_time.tzinfo is UTC  # none was given: the database's clock

        session.execute(text("UPDATE tasks SET task_status = 99 WHERE id = :id"), {"id": TASK_ID})
        # Raw SQL goes past the rows that are loaded already.
        assert task.task_status == 101
        session.refresh(task)
        assert task.task_status == CANCELLED
        assert session.execute(text("SELECT task_status FROM tasks")).all() == [(99,)]

    assert sql("SELECT task_status FROM tasks") == [{"task_status": 99}]
    with database.session_scope() as session:
        session.execute(text("DELETE FROM tasks"))
        assert session.scalars(first_task).all() == []
    assert sql("SELECT count(*) AS n FROM tasks") == [{"n": 0}]


def test_a_bare_string_is_no_statement(database):
    """As the notes write it, it worked until SQLAlchemy 1.4; since 2.0 it is refused before it is sent."""
    with database.session_scope() as session, pytest.raises(ArgumentError, match=r"text\("):
        session.execute("DELETE FROM tasks")


class RawSqlHandler(ApiHandler):
    """Raw SQL from a handler goes through `run`, as everything else."""

    async def get(self) -> None:
        count = text("SELECT count(*) FROM tasks WHERE bundle = :bundle")
        number = await self.run(self.session.scalar, count, {"bundle": self.get_query_argument("bundle")})
        self.write_json(number)


@pytest.mark.gen_test
async def test_raw_sql_from_a_handler(database, serve, sql):
    """The session's own methods are plain functions too; values are bound, never pasted into the text."""
    sql(
        "INSERT INTO tasks (id, bundle, granularity, target_date, change_id)"
        " VALUES (:id, 'store', 'daily', '2020-04-01', 3)",
        id=TASK_ID,
    )
    client = serve(Application([("/", RawSqlHandler)], database=database))

    assert (await client.get("/?bundle=store")).json() == 1
    assert (await client.get("/?bundle='%20OR%201=1--")).json() == 0


# -- connections


@on_postgresql
def test_a_connection_that_grew_old_is_replaced(database_settings, io_loop):
    """`pool_recycle_s`: what a firewall may have forgotten is not used again."""
    database = Database(database_settings.model_copy(update={"pool_recycle_s": 1}))

    def backend() -> int:
        with database.session_scope() as session:
            return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)

    try:
        first = backend()
        assert backend() == first
        assert wait_until(lambda: backend() != first, timeout_s=4)
    finally:
        io_loop.run_sync(database.close)


def test_a_session_tells_its_engine(database):
    """`session.get_bind()` is the writer's engine, or the reader's; no global is needed for it."""
    with database.session_scope() as session:
        assert session.get_bind() is database.writer.engine
    with database.session_scope(read_only=True) as session:
        assert session.get_bind() is database.reader.engine


@pytest.mark.gen_test
async def test_model_code_runs_from_asyncio_unchanged(database, sql):
    """The async twin: awaited on the loop, run in a thread; the functions are the ones a script calls."""
    async with database.unit_of_work(label="import") as unit:
        await unit.run(create_team, unit.session, name="Store")
        await unit.run(create_task, unit.session, new=new_task())
        task = await unit.run(update_task, unit.session, task_id=TASK_ID, change={"task_status": 102})
        assert task.version == 2

    assert sql("SELECT task_status FROM tasks") == [{"task_status": 102}]


# -- thread-local scope, and why not here


class ThreadLocalHandler(TwoAtOnce):
    """The notes' flow for threaded frameworks, under Tornado: one thread, so one session for all requests."""

    async def post(self) -> None:
        registry: scoped_session[Session] = self.settings["registry"]
        registry.add(Team(name=self.get_argument("name")))
        self.seen.append(id(registry()))
        await self.meet()  # type: ignore[misc]
        if self.get_argument("fail", ""):
            await asyncio.sleep(0.1)  # the other one ends first
            registry.rollback()
            self.set_status(409)
        else:
            registry.commit()
            self.set_status(201)

    def on_finish(self) -> None:
        self.settings["registry"].remove()


@pytest.mark.gen_test
async def test_a_thread_local_session_mixes_two_requests_under_tornado(database, serve, sql, expect_log):
    """Shown on purpose: the request that is refused has its row kept, by the commit of the other."""
    registry = scoped_session(sessionmaker(database.writer.engine))
    seen: list[object] = []
    arguments = {"meet": meeting(2), "seen": seen}
    client = serve(Application([("/", ThreadLocalHandler, arguments)], registry=registry))

    with expect_log("tornado.access", "409"):
        kept, refused = await asyncio.gather(
            client.post("/?name=Store", b""), client.post("/?name=Shop&fail=1", b"")
        )

    assert (kept.code, refused.code) == (201, 409)
    assert len(set(seen)) == 1
    assert {row["name"] for row in sql("SELECT name FROM teams")} == {"Store", "Shop"}
