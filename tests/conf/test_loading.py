"""Which source wins, what is told of the wrong ones, and where a value came from."""

from __future__ import annotations

import contextlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import conf
from conf import DatabaseSettings, Settings, SettingsError, load_settings
from conf.names import names

FOLDER = conf.__name__.replace(".", "/")
"""Where the package's own files are, as messages name them."""

ENVIRONMENTS = ["development", "testing", "production"]
URL = "postgresql://me:geheim@db.example.org/board"


def faults_of(overrides: dict[str, Any] | None = None, /, **environ: str) -> list[str]:
    """What is told when settings are loaded that must not pass."""
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides, environ)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults) + 1
    return [str(fault) for fault in caught.value.faults]


def folder(path: Path, text: str, name: str = "development") -> str:
    """A folder of one's own with one environment's file."""
    (path / f"{name}.toml").write_text(text, "utf-8")
    return str(path)


class TestOrder:
    @given(
        in_file=st.none() | st.integers(1, 99),
        in_variable=st.none() | st.integers(1, 99),
        in_flag=st.none() | st.integers(1, 99),
    )
    def test_flags_over_variables_over_the_file_over_the_defaults(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        in_file: int | None,
        in_variable: int | None,
        in_flag: int | None,
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "order"
        path.mkdir(exist_ok=True)
        conf_dir = folder(path, "" if in_file is None else f"[database]\npool_size = {in_file}\n")
        environ = {"CONF_DIR": conf_dir} | ({} if in_variable is None else {"POOL_SIZE": str(in_variable)})
        overrides = {} if in_flag is None else {"database.pool_size": str(in_flag)}

        settings = load_settings(overrides, environ)

        given_values = [(in_flag, "flag --pool-size"), (in_variable, "environment POOL_SIZE")]
        given_values += [(in_file, f"{conf_dir}/development.toml"), (10, "default")]
        expected = next(pair for pair in given_values if pair[0] is not None)
        assert (settings.database.pool_size, settings.origin_of("database.pool_size")) == expected

    def test_every_setting_can_be_set_by_its_variable_and_by_its_flag(self) -> None:
        """One rule for all: the default's own text, given back, is taken and named as the origin."""
        plain = Settings(database=DatabaseSettings(drivername="postgresql", host="h"))
        special = {
            "environment": "testing",
            "conf_dir": str(files(conf)),
            "database.drivername": "postgresql",
        }
        special |= {"database.host": "h", "database.query": "a=b", "database.connect_args": '{"a": 1}'}
        special |= {
            "http.cors_origins": "https://a.example",
            "http.trusted_origins": "https://b.example:8443",
        }
        special |= {"http.cors_headers": "Authorization"}
        special |= {"http.trusted_proxies": "10.0.0.7, 10.1.0.0/16"}
        special |= {"database.models": "shop.models, billing"}
        special |= {"http.hosts": "app.example.org", "ops.hosts": "*"}
        texts = {}
        for path in names():
            if path == "database.url":
                continue
            value: Any = plain
            for part in path.split("."):
                value = getattr(value, part)
            texts[path] = special.get(path, "none" if value is None else str(value))
        texts |= {"database.username": "me", "database.password": "x", "database.database": "board"}

        by_flag = load_settings(texts, {})
        by_variable = load_settings({}, {names()[path].variable: text for path, text in texts.items()})

        for path in texts:
            assert by_flag.origin_of(path) == f"flag {names()[path].flag}"
            assert by_variable.origin_of(path) == f"environment {names()[path].variable}"
        assert repr(by_flag) == repr(by_variable)

    def test_an_empty_variable_is_one_that_is_not_set(self) -> None:
        settings = load_settings({}, {"PORT": "", "ENVIRONMENT": "", "DATABASE_URL": ""})

        assert settings.http.port == 8888
        assert settings.origin_of("http.port") == "default"

    def test_other_peoples_variables_are_none_of_ours(self) -> None:
        load_settings({}, {"PATH": "/bin", "POOLSIZE": "x", "HTTP_PORT": "x", "port": "x", "LANG": "C"})

    def test_a_flag_may_be_given_as_text_or_as_what_it_stands_for(self) -> None:
        assert (
            load_settings({"http.port": "0"}, {}).http.port
            == load_settings({"http.port": 0}, {}).http.port
            == 0
        )

    def test_tables_are_merged_and_each_entry_knows_where_it_came_from(self) -> None:
        settings = load_settings(
            {}, {"ENVIRONMENT": "production", "DATABASE_URL": URL, "DATABASE_QUERY": "connect_timeout=3"}
        )

        assert settings.database.query == {"sslmode": "verify-full", "connect_timeout": "3"}
        assert settings.origin_of("database.query.sslmode") == f"{FOLDER}/production.toml"
        assert settings.origin_of("database.query.connect_timeout") == "environment DATABASE_QUERY"

    def test_the_origin_of_what_is_no_setting_is_an_error(self) -> None:
        with pytest.raises(KeyError, match=r"http\.prot"):
            load_settings({}, {}).origin_of("http.prot")

    def test_settings_made_by_hand_read_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DEBUG", "true")
        monkeypatch.setenv("ENVIRONMENT", "production")
        settings = Settings(autoreload=True)

        assert (settings.environment, settings.debug) == ("development", False)
        assert (settings.origin_of("autoreload"), settings.origin_of("debug")) == ("argument", "default")


class TestEnvironments:
    @pytest.mark.parametrize("environment", ENVIRONMENTS)
    @pytest.mark.parametrize("url", [URL, "sqlite:///x.db", "postgresql+asyncpg://h/x"])
    def test_every_environment_starts_with_nothing_but_a_url(self, environment: str, url: str) -> None:
        settings = load_settings({}, {"ENVIRONMENT": environment, "DATABASE_URL": url})

        assert settings.environment == environment
        assert settings.origin_of("database.url") == "environment DATABASE_URL"

    def test_development_is_sqlite_in_a_file(self) -> None:
        settings = load_settings({}, {})

        assert settings.database.shown_url == "sqlite:///onfinish.db"
        assert settings.origin_of("database.url") == f"{FOLDER}/development.toml"
        assert (settings.log.format, settings.production) == ("lines", False)

    def test_testing_is_sqlite_in_memory(self) -> None:
        settings = load_settings({"environment": "testing"}, {})

        assert (settings.database.shown_url, settings.http.port) == ("sqlite://", 0)

    def test_production_is_guarded(self) -> None:
        settings = load_settings({}, {"ENVIRONMENT": "production", "DATABASE_URL": URL})

        assert settings.production
        assert (settings.debug, settings.autoreload, settings.compare.mount) == (False, False, False)
        assert settings.database.query == {"sslmode": "verify-full"}
        assert settings.database.pool_pre_ping
        assert 0 < settings.database.connect_timeout_s <= 10
        assert 0 < settings.database.pool_recycle_s <= 3600
        assert settings.log.format == "json"
        assert settings.http.grace_s == 5.0

    @pytest.mark.parametrize("environment", ENVIRONMENTS)
    def test_a_databases_messages_are_shown_in_development_alone(self, environment: str) -> None:
        settings = load_settings({}, {"ENVIRONMENT": environment, "DATABASE_URL": URL})

        assert settings.log.database_messages is (environment == "development")

    def test_production_without_a_url_is_told_what_to_set(self) -> None:
        (fault,) = faults_of(ENVIRONMENT="production")

        assert fault.startswith("database.url: not set, and environment 'production' has no default")
        assert "DATABASE_URL" in fault
        assert "--database-url" in fault

    @pytest.mark.parametrize(
        ("name", "variable"),
        [
            ("debug", "DEBUG"),
            ("autoreload", "AUTORELOAD"),
            ("compare.mount", "COMPARE_MOUNT"),
            ("log.database_messages", "DATABASE_MESSAGES"),
            ("database.echo", "DATABASE_ECHO"),
        ],
    )
    def test_production_refuses_what_is_for_a_laptop(self, name: str, variable: str) -> None:
        (fault,) = faults_of(ENVIRONMENT="production", DATABASE_URL=URL, **{variable: "true"})

        assert fault.startswith(f"environment {variable}: {name}: not with environment 'production'")

    def test_an_environment_that_a_clone_adds_is_held_to_what_production_is(self, tmp_path: Path) -> None:
        conf_dir = folder(tmp_path, "[http]\nport = 9\n", "staging")
        environ = {"ENVIRONMENT": "staging", "CONF_DIR": conf_dir}

        assert load_settings({}, environ | {"DATABASE_URL": URL}).http.port == 9
        assert "has no default" in "".join(faults_of(**environ))
        assert "not with environment 'staging'" in "".join(faults_of(**environ, DATABASE_URL=URL, DEBUG="1"))

    def test_the_files_hold_a_reason_for_each_value(self) -> None:
        for environment in ENVIRONMENTS:
            text = (files(conf) / f"{environment}.toml").read_text("utf-8")
            values = [line for line in text.splitlines() if "=" in line.partition("#")[0]]
            assert [line for line in values if "#" not in line and 'format = "lines"' not in line] in (
                [],
                ['level = "info"'],
            )


class TestPlaceOfTheDatabase:
    PARTS = {"DATABASE_DRIVERNAME": "postgresql", "DATABASE_HOST": "h", "DATABASE_PASSWORD": "geheim"}  # noqa: RUF012

    def test_parts_displace_the_files_url(self) -> None:
        settings = load_settings({}, self.PARTS)

        assert (settings.database.url, settings.database.host) == (None, "h")

    def test_a_url_displaces_the_files_parts(self, tmp_path: Path) -> None:
        conf_dir = folder(tmp_path, '[database]\ndrivername = "postgresql"\nhost = "h"\n')
        settings = load_settings({}, {"CONF_DIR": conf_dir, "DATABASE_URL": URL})

        assert settings.database.host is None
        assert settings.origin_of("database.host") == "default"
        assert load_settings({}, {"CONF_DIR": conf_dir, "DATABASE_PORT": "6432"}).database.port == 6432

    def test_both_at_once_are_a_contradiction(self, tmp_path: Path) -> None:
        (fault,) = faults_of({"database.host": "h"}, DATABASE_URL=URL)
        assert fault.startswith(
            "environment DATABASE_URL, flag --database-host: database.url: given together"
        )

        conf_dir = folder(tmp_path, '[database]\nurl = "sqlite://"\ndatabase = "x.db"\n')
        (fault,) = faults_of(CONF_DIR=conf_dir)
        assert "together with its parts (database)" in fault

    def test_parts_without_a_driver(self) -> None:
        (fault,) = faults_of(DATABASE_HOST="h")

        assert fault.startswith("database.drivername: missing beside host: choose one of postgresql")


class TestFaults:
    def test_all_of_them_are_told_at_once_each_with_its_origin(self, tmp_path: Path) -> None:
        conf_dir = folder(
            tmp_path,
            'colour = "red"\nconf_dir = "x"\n[http]\nport = "80"\nprot = 80\npool_size = 5\n'
            '[databse]\nurl = "geheim"\n[database.query]\nsslmode = 1\n[log]\nlevel = "loud"\n',
        )
        told = faults_of(
            {"http.prot": "1", "http.drain_s": "-1"},
            CONF_DIR=conf_dir,
            POOL_SIZE="many",
            DATABASE_URL="geheim",
            DATABASE_HOST="h",
            DEBUG="perhaps",
            STATEMENT_TIMEOUT_S="inf",
        )

        file = f"{tmp_path}/development.toml"
        assert sorted(told) == sorted(
            [
                f"{file}: colour: no such setting",
                f"{file}: conf_dir: chooses this file, so it cannot be in it: use CONF_DIR, --conf-dir",
                f"{file}: http.port: should be a whole number, not '80'",
                f"{file}: http.prot: no such setting; did you mean http.port?",
                f"{file}: http.pool_size: no such setting; did you mean database.pool_size?",
                f"{file}: databse: no such setting; did you mean database?",
                f"{file}: database.query.sslmode: should be text, or a list of texts, "
                'as in a URL\'s query: "5", not 5',
                f"{file}: log.level: should be 'debug', 'info', 'warning' or 'error', not 'loud'",
                "http.prot: no such setting; did you mean http.port?",
                "flag --drain-s: http.drain_s: should be greater than or equal to 0, not '-1'",
                "environment POOL_SIZE: database.pool_size: should be a whole number, not 'many'",
                "environment DATABASE_URL: database.url: not a URL: it reads "
                "driver://user:password@host:port/name, or sqlite:///file",
                "environment DATABASE_URL, environment DATABASE_HOST: database.url: given together with its "
                "parts (host): keep the one or the others",
                "environment DEBUG: debug: should be true or false, not 'perhaps'",
                "environment STATEMENT_TIMEOUT_S: database.statement_timeout_s: "
                "should be a finite number, not 'inf'",
            ]
        )

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[http\n", "not TOML: "),
            ("port = 1\nport = 2\n", "not TOML: "),
            ("http = 5\n", "http: is a section: write [http], and its settings below"),
            ("[http.port]\nx = 1\n", "http.port: should be a whole number, not {'x': 1}"),
            ("[database]\nquery = 'sslmode=require'\n", "database.query: should be a table"),
            ("[http]\nport = true\n", "http.port: should be a whole number, not True"),
            ("[http]\nport = 80.5\n", "http.port: should be a whole number, not 80.5"),
            ("[http]\ndrain_s = 1979-05-27\n", "http.drain_s: should be a number"),
        ],
    )
    def test_what_is_wrong_in_a_file(self, tmp_path: Path, text: str, says: str) -> None:
        conf_dir = folder(tmp_path, text)
        told = faults_of(CONF_DIR=conf_dir, DATABASE_URL=URL)

        assert told[0].startswith(f"{conf_dir}/development.toml: {says}")

    def test_a_file_in_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "development.toml").write_bytes(b"# caf\xe9\n")

        assert faults_of(CONF_DIR=str(tmp_path)) == [f"{tmp_path}/development.toml: not UTF-8 at byte 5"]

    def test_an_environment_that_is_not_there(self, tmp_path: Path) -> None:
        assert faults_of(ENVIRONMENT="prodution") == [
            "environment ENVIRONMENT: environment: 'prodution' is not one of development, production, "
            "testing; did you mean production?"
        ]
        assert "is not there, nor any other" in faults_of(CONF_DIR=str(tmp_path))[0]
        assert "not one of" in faults_of({"environment": "../conf/production"})[0]
        assert faults_of({"conf_dir": f"{tmp_path}/no"}) == [
            f"flag --conf-dir: conf_dir: {tmp_path}/no: No such file or directory"
        ]

    def test_settings_that_contradict_each_other(self) -> None:
        (fault,) = faults_of({"http.processes": 2, "autoreload": False}, ENVIRONMENT="testing")
        assert fault.startswith(
            "flag --processes: http.processes: each process would have an in-memory SQLite"
        )

        (fault,) = faults_of({"http.processes": 2})
        assert fault.startswith(f"{FOLDER}/development.toml: autoreload: not with 2 processes")

        (fault,) = faults_of({"ops.port": 8888})
        assert fault == "flag --ops-port: ops.port: http.port is 8888 too"

    @pytest.mark.parametrize("text", ["{", "[1]", '{"a":', "a", "&&", "{" * 100_000])
    def test_a_table_that_cannot_be_read_is_told_without_showing_it(self, text: str) -> None:
        (fault,) = faults_of(DATABASE_QUERY=text)

        assert fault.startswith("environment DATABASE_QUERY: database.query: ")
        assert len(fault) < 150

    @given(
        variable=st.sampled_from([name.variable for name in names().values()]),
        before=st.text("ab:/@?&= {\"'", max_size=10),
        scheme=st.sampled_from(
            ["postgresql://me:", "postgresql+x://me:", "postgres:/me:", "me:", "x?password="]
        ),
    )
    def test_a_url_in_the_wrong_place_or_shape_shows_no_password(
        self, variable: str, before: str, scheme: str
    ) -> None:
        text = f"{before} {scheme}geheim@host/name"
        try:
            shown = repr(load_settings({}, {"DATABASE_URL": "sqlite://", variable: text}))
        except SettingsError as exc:
            shown = f"{exc}{exc!r}"

        assert "geheim" not in shown

    @given(
        variable=st.sampled_from([name.variable for name in names().values()]),
        text=st.text(st.characters(exclude_characters="\0"), max_size=30),
    )
    def test_whatever_a_variable_holds_it_is_taken_or_told(self, variable: str, text: str) -> None:
        with contextlib.suppress(SettingsError):
            assert load_settings({}, {variable: text}).origin_of("http.processes")

    def test_nothing_secret_is_in_the_error_or_in_the_settings(self) -> None:
        environ = {"DATABASE_URL": URL + "?sslpassword=hush", "CONNECT_ARGS": '{"password": "hush"}'}
        settings = load_settings({}, environ)
        told = "".join(faults_of(**environ, PORT="x", DATABASE_PASSWORD="geheim"))

        for shown in (repr(settings), str(settings), settings.model_dump_json(), told):
            assert "geheim" not in shown
            assert "hush" not in shown
        assert repr(settings).startswith("Settings(environment='development', ")
