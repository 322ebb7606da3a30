"""Engines: the right driver, the right database, and which setting wins."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import Engine, event, make_url as parse_url, text
from sqlalchemy.pool import NullPool, QueuePool

from conf import DatabaseSettings
from db import make_engine, make_url
from db.backends.choose import backend_for
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster

# Every character that means something in a URL, a query, a shell or a libpq connection string.
PASSWORD = "p@ss:w/o?r#d[&=+%20 %'\"\\ü]"


def arguments_of(settings: DatabaseSettings, role: str = "writer") -> dict[str, object]:
    """What the driver's ``connect`` would be given; nothing is connected to."""
    found: dict[str, object] = {}
    engine = make_engine(settings, role)  # type: ignore[arg-type]

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, positional: object, arguments: dict[str, object]) -> None:
        found.update(arguments)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        engine.connect()
    return found


def ask(engine: Engine, question: str) -> object:
    """One statement's one value; the engine is disposed of."""
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql(question).scalar()
    finally:
        engine.dispose()


@pytest.mark.parametrize("name", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_the_bare_names_of_postgresql_mean_psycopg2(name: str):
    """SQLAlchemy 2.1 takes the first for psycopg 3 and refuses the second."""
    for settings in (
        DatabaseSettings(url=f"{name}://u@h/d"),
        DatabaseSettings(drivername=name, username="u", host="h", database="d"),
    ):
        engine = make_engine(settings)

        assert engine.dialect.driver == "psycopg2"
        assert engine.url.drivername == "postgresql+psycopg2"


def test_the_parts_make_the_url_that_they_would_be_written_as():
    parts = DatabaseSettings(
        drivername="postgresql",
        username="o'neil@home",
        password=PASSWORD,
        host="h",
        port=5433,
        database="d/b",
        query={"sslmode": "require", "host": ["a:1", "b:2"]},
    )

    url = make_url(parts)

    assert (url.username, url.password, url.host, url.port, url.database) == (
        "o'neil@home",
        PASSWORD,
        "h",
        5433,
        "d/b",
    )
    assert url.query == {"sslmode": "require", "host": ("a:1", "b:2")}
    assert make_url(DatabaseSettings(url=url.render_as_string(hide_password=False))) == url


@pytest.mark.parametrize("form", ["url", "parts"])
def test_an_odd_password_opens_the_door(postgres_cluster: PostgresCluster, form: str):
    """It reaches the server as it is, from an escaped URL and from plain parts."""
    with postgres_cluster.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE odd LOGIN PASSWORD %s", (PASSWORD,))
    try:
        parts = DatabaseSettings(
            drivername="postgres",
            username="odd",
            password=PASSWORD,
            host=postgres_cluster.host,
            port=postgres_cluster.port,
            database="postgres",
        )
        settings = parts
        if form == "url":
            settings = DatabaseSettings(url=make_url(parts).render_as_string(hide_password=False))

        assert ask(make_engine(settings, "migration"), "SELECT current_user") == "odd"
    finally:
        with postgres_cluster.admin_connection() as connection, connection.cursor() as cursor:
            cursor.execute("DROP ROLE odd")


def test_what_the_url_says_wins_over_the_environments_query():
    settings = DatabaseSettings(
        url="postgresql://h/d?sslmode=disable",
        query={"sslmode": "verify-full", "target_session_attrs": "any"},
    )

    assert make_url(settings).query == {"sslmode": "disable", "target_session_attrs": "any"}


def test_what_the_url_says_wins_over_our_own_arguments():
    """Also what the environment's query says does: it was given, and our arguments are defaults."""
    given = {"connect_timeout": "2", "application_name": "mine", "keepalives_idle": "99"}
    text_ = "&".join(f"{name}={value}" for name, value in given.items())

    for settings in (
        DatabaseSettings(url=f"postgresql://h/d?{text_}"),
        DatabaseSettings(url="postgresql://h/d", query=given),
    ):
        arguments = arguments_of(settings)

        assert {name: str(arguments[name]) for name in given} == given
        assert arguments["keepalives_interval"] == 5


def test_connect_args_reach_the_driver_and_win_over_our_own():
    postgresql = arguments_of(
        DatabaseSettings(url="postgresql://h/d", connect_args={"connect_timeout": 3, "gssencmode": "disable"})
    )
    sqlite = arguments_of(DatabaseSettings(url="sqlite:///x.db", connect_args={"cached_statements": 7}))

    assert (postgresql["connect_timeout"], postgresql["gssencmode"]) == (3, "disable")
    assert sqlite["cached_statements"] == 7


@pytest.mark.parametrize(
    "more",
    [
        {"url": "postgresql://h/d?options=-c%20work_mem%3D1MB"},
        {"url": "postgresql://h/d", "query": {"options": "-c work_mem=1MB"}},
        {"url": "postgresql://h/d", "connect_args": {"options": "-c work_mem=1MB"}},
    ],
    ids=["url", "query", "connect_args"],
)
def test_server_options_are_added_to_ours_wherever_they_are_given(more: dict[str, Any]):
    """The reader's own read-only setting above all must not get lost by a given search_path."""
    options = str(arguments_of(DatabaseSettings(**more), "reader")["options"])

    assert "default_transaction_read_only=on" in options
    assert "statement_timeout=60000" in options
    assert options.endswith("-c work_mem=1MB")


def test_a_link_that_is_down_is_noticed():
    """Keepalives only work on a silent link; tcp_user_timeout also while something waits for its ACK."""
    arguments = arguments_of(DatabaseSettings(url="postgresql://h/d"))

    assert arguments["connect_timeout"] == 5
    assert arguments["keepalives_idle"] == 15
    assert arguments["tcp_user_timeout"] == 30_000

    arguments = arguments_of(
        DatabaseSettings(url="postgresql://h/d", keepalive_idle_s=60, tcp_user_timeout_s=None)
    )
    assert (arguments["keepalives_idle"], arguments["tcp_user_timeout"]) == (60, 0)


def test_no_engine_connects_before_it_is_used():
    for role in ("writer", "reader", "migration"):
        engine = make_engine(DatabaseSettings(url="postgresql://127.0.0.1:1/d"), role)
        engine.dispose()


def test_the_pools_settings_reach_both_pools():
    settings = DatabaseSettings(
        url="postgresql://h/d",
        pool_size=3,
        max_overflow=2,
        reader_pool_size=7,
        pool_timeout_s=1.5,
        pool_recycle_s=77,
        pool_pre_ping=False,
        pool_use_lifo=False,
    )

    writer, reader = make_engine(settings, "writer").pool, make_engine(settings, "reader").pool

    assert isinstance(writer, QueuePool)
    assert isinstance(reader, QueuePool)
    assert (writer.size(), writer._max_overflow, writer._timeout) == (3, 2, 1.5)
    assert (reader.size(), reader._max_overflow) == (7, 0)
    assert (writer._recycle, writer._pool.use_lifo) == (77, False)


def test_a_migration_has_no_pool_and_no_time_limits():
    arguments = arguments_of(DatabaseSettings(url="postgresql://h/d"), "migration")

    assert "options" not in arguments
    assert isinstance(make_engine(DatabaseSettings(url="postgresql://h/d"), "migration").pool, NullPool)


def test_a_database_that_is_not_supported_is_named_beside_those_that_are():
    told = (
        r"mysql\+mysqlconnector is not supported yet; there are: mariadb\+pymysql, mysql\+pymysql, postgresql"
    )
    with pytest.raises(ValueError, match=told):
        backend_for(parse_url("mysql+mysqlconnector://h/d"))


def test_sqlalchemys_asyncio_extension_is_not_imported():
    """It takes a while, and its bridge alone is used."""
    program = (
        "import sys, conf, db, handlers, server.app\n"
        "from db import make_engine\n"
        "make_engine(conf.DatabaseSettings(url='postgresql://h/d'))\n"
        "print([name for name in sys.modules if name.startswith('sqlalchemy.ext.asyncio')])"
    )

    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert result.stdout.strip() == "[]"


def test_importing_makes_no_engine_and_reads_no_variable():
    program = (
        "import gc, sqlalchemy\n"
        "import db, db.database, db.engines.engine, db.health, server.app\n"
        "print([o for o in gc.get_objects() if isinstance(o, sqlalchemy.Engine)])"
    )
    environment = {"DATABASE_URL": "nonsense", "POOL_SIZE": "nonsense"}

    result = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )

    assert result.stdout.strip() == "[]"


def test_parameters_are_in_no_message_and_in_no_log(sql: RawSql, database_url: str, expect_log: ExpectLog):
    """Not even with every statement logged: they are personal data."""
    sql("CREATE TABLE secrets (name varchar(64) PRIMARY KEY)")
    engine = make_engine(DatabaseSettings(url=database_url, echo=True))
    insert = text("INSERT INTO secrets VALUES (:name)")

    with (
        expect_log("sqlalchemy.engine", "INSERT", level=logging.INFO) as statements,
        expect_log("sqlalchemy", "", level=logging.INFO) as records,
        engine.connect() as connection,
        pytest.raises(Exception, match="INSERT INTO secrets") as caught,
    ):
        for _ in range(2):
            connection.execute(insert, {"name": "tiptop-secret"})
    engine.dispose()

    assert statements
    assert not [record for record in records if "tiptop" in record.getMessage()]
    assert "tiptop" not in str(caught.value).replace(
        "DETAIL:  Key (name)=(tiptop-secret) already exists.", ""
    )
