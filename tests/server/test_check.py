"""The command that looks whether the service can work here."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, make_url

from conf import DatabaseSettings
from db.doctor import examine as checkup, sqlite as sqlite_checkup
from db.doctor.findings import Finding, Plan
from db.schema.branches import branches
from tests.fixtures.databases import RawSql
from tests.fixtures.migrations import set_revision
from tests.fixtures.postgres import PostgresCluster
from tests.server.terminals import on_a_terminal
from tests.server.test_cli import run
from tests.service import model

PLAN = Plan(processes=1, production=False, request_timeout_s=30)
PRODUCTION = Plan(processes=1, production=True, request_timeout_s=30)

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def look(settings: DatabaseSettings, plan: Plan = PLAN) -> dict[str, Finding]:
    """The worst finding of each subject."""
    found: dict[str, Finding] = {}
    for finding in checkup.examine(settings, plan):
        assert bool(finding.fix) == (finding.level != "ok"), finding
        if finding.subject not in found or found[finding.subject].level == "ok":
            found[finding.subject] = finding
    return found


def with_query(database_url: str, **query: str) -> DatabaseSettings:
    """Settings whose URL has a query."""
    url = make_url(database_url).update_query_dict(query)
    return DatabaseSettings(url=url.render_as_string(hide_password=False))


def test_where_all_is_well_it_says_so_line_by_line(database_url: str):
    done = run("check", DATABASE_URL=database_url)

    lines = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []  # but for a long path
    assert {"settings", "database", "driver", "connection", "schema", "server", "writer"} <= {
        line.split()[1] for line in lines if line.startswith("ok ")
    }
    assert lines[-1].startswith("0 errors, ")


def test_as_json_for_programs(database_url: str):
    done = run("check", "--json", DATABASE_URL=database_url)

    told = json.loads(done.out)
    assert done.status == 0
    assert told["ok"] is True
    assert told["errors"] == 0
    assert {"subject", "level", "message", "fix"} == set(told["findings"][0])


def test_it_changes_nothing(database_url: str, sql: RawSql):
    engine = create_engine(database_url)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    assert {"idempotency_keys", "alembic_version"} < set(tables)

    def rows() -> list[Any]:
        return [sql(f"SELECT * FROM {table}") for table in tables]

    before = rows()
    run("check", DATABASE_URL=database_url)

    assert rows() == before


def test_a_schema_that_is_behind_is_told_with_the_way_out(database_settings: DatabaseSettings, sql: RawSql):
    set_revision(sql, "kernel_0001")

    schema = look(database_settings)["schema"]

    assert schema.level in ("warning", "error")  # SQLite's is brought up to date by `serve`
    assert re.match(r"is at kernel_0001, the code expects .*\d{4}", schema.message)
    assert "python -m server migrate" in schema.fix


def test_a_schema_of_a_newer_release_is_an_error(database_settings: DatabaseSettings, sql: RawSql):
    set_revision(sql, "9999")

    schema = look(database_settings)["schema"]

    assert schema.level == "error" or "9999" in schema.message


def test_what_was_changed_by_hand_is_named(database_settings: DatabaseSettings, sql: RawSql):
    sql("DROP INDEX ix_idempotency_keys_create_time")

    drift = look(database_settings)["drift"]

    assert drift.level == "error"
    assert "ix_idempotency_keys_create_time is in the code only" in drift.message


def test_an_error_is_the_exit_status(unused_port: int):
    done = run("check", DATABASE_URL=f"postgresql://me:geheim@127.0.0.1:{unused_port}/x")

    assert done.status == 1
    assert "error    connection  the database cannot be reached" in done.out
    assert "-> is the server running" in done.out
    assert done.out.splitlines()[-1] == "1 error, 0 warnings"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (("onfinish:", "onfinish:not-"), "-> is it the right user, with the right password?"),
        (
            ("?", "?sslmode=require&"),
            "-> set up TLS there; on a network that can be trusted, add ?sslmode=disable",
        ),
        (("/test_", "/no_test_"), "-> make it on the server, or name another in the URL"),
    ],
)
def test_a_refused_connection_has_its_own_fix(database_url: str, change: tuple[str, str], fix: str):
    """As the server's reason tells."""
    url = database_url if "?" in database_url else f"{database_url}?connect_timeout=5"

    done = run("check", DATABASE_URL=url.replace(*change))

    assert done.status == 1
    assert fix in " ".join(done.out.split())


def test_statements_in_the_log_of_production_are_refused(database_url: str):
    done = run("check", ENVIRONMENT="production", DATABASE_URL=database_url, DATABASE_ECHO="true")

    assert done.status == 2
    assert "environment DATABASE_ECHO: database.echo: not with environment 'production'" in done.err
    assert "DATABASE_ECHO=false" in done.err


def test_wrong_settings_are_told_as_everywhere():
    done = run("check", PORT="http")

    assert done.status == 2
    assert "environment PORT: http.port" in done.err


@on_sqlite
def test_colours_are_for_terminals_that_want_them(database_url: str):
    coloured = on_a_terminal("check", DATABASE_URL=database_url)
    plain = on_a_terminal("check", DATABASE_URL=database_url, NO_COLOR="1")

    assert "\x1b[32mok" in coloured
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split("connection")[0] == plain.split("connection")[0]


def test_config_lets_defaults_step_back_on_terminals_that_show_it():
    """What has been set is seen at once."""
    shown = on_a_terminal("config", PORT="81")
    plain = on_a_terminal("config", PORT="81", NO_COLOR="1")

    assert re.search(r"\x1b\[2m  address +127\.0\.0\.1 +default\x1b\[0m", shown)
    assert re.search(r"^  port +81 +environment PORT\r$", shown, re.MULTILINE)
    assert "\x1b" not in plain


class TestSqlite:
    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path):
        done = run("check", cwd=tmp_path)

        assert done.status == 0
        assert "warning  file " in done.out
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there(self, tmp_path: Path):
        found = look(DatabaseSettings(url=f"sqlite:///{tmp_path}/no/such/x.db"))["file"]

        assert (found.level, found.fix) == ("error", f"mkdir -p {tmp_path}/no/such")

    def test_a_file_that_is_none(self, tmp_path: Path):
        path = tmp_path / "x.db"
        path.write_text("this is no database, whatever its name may say" * 100)

        assert look(DatabaseSettings(url=f"sqlite:///{path}"))["connection"].level == "error"
        gc.collect()  # SQLAlchemy leaves a connection whose hook has failed to the collector

    def test_in_memory(self):
        found = look(DatabaseSettings(url="sqlite://"))

        assert found["file"].level == "warning"
        assert "gone with the process" in found["file"].message

    @on_sqlite
    def test_several_processes_and_production(self, database_settings: DatabaseSettings):
        several = Plan(processes=4, production=False, request_timeout_s=30)

        assert "4 processes share one file" in look(database_settings, several)["file"].message
        assert look(database_settings, PRODUCTION)["file"].level == "warning"

    @on_sqlite
    def test_a_network_file_system(
        self, database_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sqlite_checkup, "_file_system", lambda path: "nfs4")

        disk = look(database_settings)["disk"]

        assert disk.level == "error"
        assert "network file system (nfs4)" in disk.message

    def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount(self):
        assert sqlite_checkup._file_system(Path("/proc/self/status")) == "proc"


@on_postgresql
class TestPostgresql:
    def test_pools_that_want_more_than_there_is(self, database_settings: DatabaseSettings):
        settings = database_settings.model_copy(update={"pool_size": 40})

        enough = look(settings, Plan(processes=1, production=False, request_timeout_s=30))["pool"]
        too_many = look(settings, Plan(processes=4, production=False, request_timeout_s=30))["pool"]

        assert enough.level == "ok", enough
        assert enough.message.startswith(
            "81 connections at most (writer 40 + reader 40 + commit markers 1, 1 process)"
        )
        assert too_many.level == "error"
        assert re.match(r"324 connections at most \(.* of 19\d \(max_connections 200 less", too_many.message)
        assert re.search(r"pool_size to 2[34] or less", too_many.fix)

    @pytest.fixture
    def role(self, postgres_cluster: PostgresCluster, sql: RawSql) -> Iterator[str]:
        """A role that may connect, and no more; five times at once."""
        sql("CREATE ROLE lowly LOGIN PASSWORD 'lowly' CONNECTION LIMIT 5")
        yield "lowly"
        sql("DROP OWNED BY lowly")
        sql("DROP ROLE lowly")

    def test_a_role_without_rights_and_with_a_limit(self, database_url: str, role: str, sql: RawSql):
        sql("GRANT SELECT ON alembic_version TO lowly")
        url = make_url(database_url).set(username=role, password=role)

        found = look(DatabaseSettings(url=url.render_as_string(hide_password=False)))

        assert found["role"].level == "error"
        tables = sorted(table.name for branch in branches().values() for table in branch.tables)
        assert {"commit_witness", "idempotency_keys"} <= {*tables}
        assert found["role"].fix == f'GRANT SELECT, INSERT, UPDATE, DELETE ON {", ".join(tables)} TO "lowly"'
        assert found["pool"].level == "error"
        assert "of 5 (the limit of the role lowly)" in found["pool"].message

    @pytest.mark.usefixtures("shelves")
    def test_a_role_without_rights_on_the_applications_tables(
        self, database_url: str, role: str, sql: RawSql
    ):
        """Those of the modules that the setting names, whatever tables are beside them."""
        sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lowly")
        sql("REVOKE DELETE ON books FROM lowly")
        sql("CREATE TABLE of_another (id integer)")
        url = make_url(database_url).set(username=role, password=role)
        models = [model.__name__]

        found = look(DatabaseSettings(url=url.render_as_string(hide_password=False), models=models))

        assert found["role"].fix == 'GRANT SELECT, INSERT, UPDATE, DELETE ON books TO "lowly"'

    def test_a_pooler_that_drops_what_the_reader_asks_for(self, database_url: str):
        settings = with_query(
            database_url, options="-c default_transaction_read_only=off -c statement_timeout=0"
        )

        found = look(settings)

        assert found["reader"].level == "error"
        assert "statement_timeout of 60 s did not arrive" in found["limits"].message

    def test_limits_that_are_none_or_come_before_the_requests_own(self, database_settings: DatabaseSettings):
        none = database_settings.model_copy(update={"statement_timeout_s": None})
        early = database_settings.model_copy(update={"statement_timeout_s": 10.0})

        assert "no statement has a time limit" in look(none)["limits"].message
        assert "ends statements before http.request_timeout_s does" in look(early)["limits"].message
        assert look(database_settings)["limits"].level == "ok"

    def test_a_server_that_does_not_keep_what_it_acknowledged(self, database_settings: DatabaseSettings):
        """As that of the tests."""
        assert look(database_settings)["durability"].level == "warning"
        assert look(database_settings, PRODUCTION)["durability"].level == "error"

    def test_a_superuser_in_production(self, database_settings: DatabaseSettings):
        assert look(database_settings)["role"].level == "ok"
        assert look(database_settings, PRODUCTION)["role"].level == "warning"

    def test_a_password_that_is_wrong_is_not_shown(self, database_url: str):
        url = make_url(database_url).set(password="geheim")

        done = run("check", DATABASE_URL=url.render_as_string(hide_password=False))

        assert done.status == 1  # and Run has looked that the password is nowhere
