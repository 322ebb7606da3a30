"""The settings of the database, made by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from conf import DatabaseSettings
from conf.database import DRIVERS

SECRET_URL = "postgresql://me:geheim@db.example.org:5433/board?sslmode=require&sslpassword=hush"


def test_they_need_nothing_but_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedder makes them alone: the process environment is not read, not even for what is left out."""
    monkeypatch.setenv("POOL_SIZE", "99")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/x")
    settings = DatabaseSettings(url="sqlite:///x.db")

    assert settings.url is not None
    assert settings.url.get_secret_value() == "sqlite:///x.db"
    assert settings.pool_size == 10


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_documented_driver_is_taken_as_it_comes(driver: str) -> None:
    url = f"{driver}:///x"

    assert DatabaseSettings(url=url).shown_url == url
    assert DatabaseSettings(drivername=driver, database="x").drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////srv/onfinish.db",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        "postgresql:///board?host=/run/postgresql",
        "postgresql://?service=board",
        "postgresql://me:p%40ss@[::1]:5432/board",
        "postgresql:///board?host=a:5432&host=b:5432&target_session_attrs=read-write",
    ],
)
def test_urls_that_are_right(url: str) -> None:
    assert DatabaseSettings(url=url).shown_url == url.replace("p%40ss", "***")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("onfinish.db", "not a URL"),
        ("postgresql:/me:geheim@h/x", "not a URL"),
        ("", "not a URL"),
        ("geheim://h/x", "driver 'geheim' is not known: choose one of postgresql, postgres, "),
        ("mysql://me:geheim@h/x", "mysql+pymysql"),
        ("postgresql://me:ge@heim@h/x", "written %40"),
        ("postgresql://me:geheim@h:geheim/x", "the port is no number"),
        ("postgresql://me:geheim@a:1,b:2/x", "?host=a:5432&host=b:5432"),
        ("postgresql://me:geheim@h:99999/x", "between 1 and 65535"),
        ("postgresql://", "neither a host nor a database"),
        ("sqlite://onfinish.db", "three slashes"),
        (" postgresql://h/x", "white space"),
        ("postgresql://h/x\n", "white space"),
    ],
)
def test_urls_that_are_wrong_are_told_without_showing_them(url: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings(url=url)

    assert says in str(caught.value)
    assert "geheim" not in str(caught.value).replace("driver 'geheim'", "")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "missing: give"),
        ({"host": "h"}, "missing beside host"),
        ({"url": "sqlite://", "host": "h", "password": "geheim"}, "together with its parts (password, host)"),
        ({"drivername": "sqlite", "host": "h", "port": 1}, "leave out host, port"),
        ({"drivername": "orakel"}, "driver 'orakel' is not known"),
        ({"drivername": "postgresql://me:geheim@h/x"}, "driver '***' is not known"),
        ({"url": "sqlite://", "pool_size": 0}, "greater than or equal to 1"),
        ({"url": "sqlite://", "pool_size": "5"}, "valid integer"),
        ({"url": "sqlite://", "pool_size": True}, "valid integer"),
        ({"url": "sqlite://", "pool_timeout_s": float("nan")}, "finite"),
        ({"url": "sqlite://", "max_overflow": -1}, "greater than or equal to 0"),
        ({"url": "sqlite://", "pool_max_waiting": -1}, "greater than or equal to 0"),
        ({"url": "sqlite://", "pool_max_waiting": "3"}, "valid integer"),
        ({"url": "sqlite://", "statement_timeout_s": 0}, "greater than 0"),
        ({"url": "sqlite://", "models": ["shop/models.py"]}, "'shop/models.py' is no name of a module"),
        (
            {"url": "sqlite://", "query": {"timeout": 5}},
            "should be text, or a list of texts, as in a URL's query",
        ),
        ({"url": "sqlite://", "pool_sise": 5}, "pool_sise"),
    ],
)
def test_what_is_wrong_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings(**settings)

    assert says in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_no_secret_is_shown_however_they_are_printed() -> None:
    by_url = DatabaseSettings(
        url=SECRET_URL,
        query={"sslpassword": "hush"},
        connect_args={"password": "geheim", "proxy": {"token": "hush"}},
    )
    by_parts = DatabaseSettings(
        drivername="postgresql", username="me", password="geheim", host="h", database="x"
    )

    for settings in (by_url, by_parts):
        for shown in (
            repr(settings),
            str(settings),
            f"{settings}",
            settings.model_dump_json(),
            settings.shown_url,
        ):
            assert "geheim" not in shown
            assert "hush" not in shown
    assert by_url.shown_url == "postgresql://me:***@db.example.org:5433/board?sslmode=require&sslpassword=***"
    assert by_parts.shown_url == "postgresql://me:***@h/x"
    assert json.loads(by_url.model_dump_json())["url"] == by_url.shown_url


def test_they_cannot_be_changed() -> None:
    settings = DatabaseSettings(url="sqlite://")

    with pytest.raises(ValidationError, match="frozen"):
        settings.pool_size = 5  # type: ignore[misc]  # what is refused when checked is refused when run


def test_a_replica_is_shown_without_its_password_and_is_the_readers_place() -> None:
    settings = DatabaseSettings(
        url="postgresql://me:geheim@db/board", reader_url="postgresql://me:hush@replica/board"
    )

    assert settings.shown_reader_url == "postgresql://me:***@replica/board"
    assert not [word for word in ("geheim", "hush") if word in f"{settings!r}{settings.model_dump_json()}"]
    assert settings.for_reader().shown_url == "postgresql://me:***@replica/board"
    assert settings.for_reader().reader_url is None


def test_the_replica_of_a_database_in_parts_has_a_url() -> None:
    settings = DatabaseSettings(
        drivername="postgresql", host="db", database="board", reader_url="postgresql://replica/board"
    )

    assert settings.for_reader().shown_url == "postgresql://replica/board"


def test_without_a_replica_reads_go_to_the_database_itself() -> None:
    settings = DatabaseSettings(url="postgresql://db/board")

    assert settings.for_reader() is settings
    assert settings.shown_reader_url is None


@pytest.mark.parametrize(
    ("url", "reader_url", "says"),
    [
        ("sqlite:///x.db", "sqlite:///y.db", "reader_url: SQLite is one file"),
        ("postgresql+asyncpg://db/board", "postgresql://replica/board", "own, postgresql+asyncpg"),
        ("postgresql://db/board", "mysql+pymysql://replica/board", "own, postgresql+psycopg2"),
        ("postgresql://db/board", "replica", "not a URL"),
    ],
)
def test_a_replica_that_cannot_be_one_is_refused(url: str, reader_url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        DatabaseSettings(url=url, reader_url=reader_url)


def test_two_names_of_one_driver_are_one() -> None:
    DatabaseSettings(url="postgres://db/board", reader_url="postgresql+psycopg2://replica/board")


@pytest.mark.parametrize(
    "given", [{"query": {"target_session_attrs": "read-write"}}, {"connect_args": {"host": "db"}}]
)
def test_what_would_send_the_replicas_reads_elsewhere_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="would apply to the replica too"):
        DatabaseSettings(url="postgresql://db/board", reader_url="postgresql://replica/board", **given)
