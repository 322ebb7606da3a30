"""The command line, as a process: what it prints, and the status it ends with."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.names import names
from server import commands
from server.cli import build_parser, find_commands, main
from tests.fixtures.databases import RawSql
from tests.fixtures.warm import can_be_warm, warm_python_of_this_run

ROOT = Path(__file__).parents[2]
SECRETS = ("geheim", "hush")


class Run:
    """One run of the command line to its end. Lives as long as its test."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err
        assert "Traceback" not in out + err, out + err
        assert not [secret for secret in SECRETS if secret in out + err], out + err

    @property
    def told(self) -> list[str]:
        """The lines on the standard error."""
        return self.err.splitlines()


def environment(**variables: str) -> dict[str, str]:
    """The variables of a process that has nothing set but what is given."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LC_ALL": "C"} | variables


def start(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start the command line."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "server", *arguments],
        env=environment(**variables),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, cwd: Path | None = None, **variables: str) -> Run:
    """Run the command line to its end, forked from a Python that has its libraries where there is one."""
    environ = environment(**variables) | {"PYTHONWARNINGS": "error"}
    python = warm_python_of_this_run()
    if python is not None and can_be_warm(environ):
        with tempfile.TemporaryFile() as out_file, tempfile.TemporaryFile() as err_file:
            forked = python.start("server", arguments, environ=environ, cwd=cwd, out=out_file, err=err_file)
            status = forked.wait(60)
            out_file.seek(0)
            err_file.seek(0)
            return Run(status, out_file.read().decode(), err_file.read().decode())
    with start(*arguments, cwd=cwd, **variables) as process:
        out, err = process.communicate(timeout=60)
    return Run(process.returncode, out, err)


def test_a_variable_that_is_hardly_another_than_a_settings_is_warned_of():
    """Else the service starts on SQLite, without a word."""
    misspelt = run("config", DATABSE_URL="postgresql://user:secret@host/name")
    right = run("config", DATABASE_URL="sqlite:///x.db", DATABASE_URLS="of another program's")

    assert (misspelt.status, right.status) == (0, 0)
    assert "no setting with the variable DATABSE_URL: did you mean DATABASE_URL?" in misspelt.err
    assert "secret" not in misspelt.err
    assert right.err == ""


class TestHelp:
    def test_it_names_every_command_flag_and_variable_and_fits_a_terminal(self) -> None:
        done = run("--help")

        assert (done.status, done.err) == (0, "")
        assert [line for line in done.out.splitlines() if len(line) > 80] == []
        for name in names().values():
            assert f"  {name.flag}" in done.out
            assert f"[{name.variable}; " in done.out
        assert {"serve", "migrate", "config"} <= set(re.findall(r"^    (\w+) ", done.out, re.MULTILINE))
        assert "[PORT; 8888]" in done.out
        assert "[DATABASE_URL; sqlite:///onfinish.db]" in done.out

    def test_a_commands_help_shows_its_own_arguments_only(self) -> None:
        done = run("migrate", "--help")

        assert done.status == 0
        assert "--to REVISION" in done.out
        assert "--pool-size" not in done.out

    def test_version(self) -> None:
        done = run("--version")

        assert done.status == 0
        assert done.out.startswith("onfinish ")

    def test_nothing_slow_is_imported_for_it(self) -> None:
        code = "import sys, server.cli, conf.logs\nprint(*sys.modules)"
        out = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
        ).stdout.split()

        assert "conf.settings" in out
        assert {"sqlalchemy", "tornado", "alembic", "psycopg2", "db", "handlers"} & set(out) == set()


class TestWrongUse:
    def test_every_wrong_setting_and_flag_is_told_at_once(self) -> None:
        done = run(
            "config",
            "--port=http",
            "--databse-url=postgresql://me:geheim@h/x",
            "--pool-sise",
            "5",
            "--debug=perhaps",
            DATABASE_URL="postgresql://me:geheim@h:geheim/x",
            MAX_OVERFLOW="-3",
        )

        assert (done.status, done.out) == (2, "")
        assert done.told[0] == "python -m server: 6 settings are wrong:"
        assert sorted(done.told[1:]) == sorted(
            [
                "  flag --databse-url: no such flag; did you mean --database-url?",
                "  flag --pool-sise: no such flag; did you mean --pool-size?",
                "  flag --port: http.port: should be a whole number, not 'http'",
                "  flag --debug: debug: should be true or false, not 'perhaps'",
                "  environment DATABASE_URL: database.url: malformed URL: the port is no number "
                "(several hosts go into the query: ?host=a:5432&host=b:5432)",
                "  environment MAX_OVERFLOW: database.max_overflow: "
                "should be greater than or equal to 0, not '-3'",
            ]
        )

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["migrat"], "invalid choice: 'migrat'"),
            (["migrat"], "did you mean migrate?"),
            (["server"], "did you mean serve?"),
            (["postgresql://me:geheim@h/x"], "invalid choice: 'postgresql://me:***@h/x'"),
            (["--port"], "--port: expected one argument"),
            (["migrate", "--to"], "--to: expected one argument"),
            (["config", "-x"], "-x"),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
        status = main(arguments)

        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert says in err
        assert "geheim" not in err

    def test_check_changes_nothing_so_it_takes_no_revision(self) -> None:
        done = run("migrate", "check", "--to", "head")

        assert (done.status, done.told) == (2, ["migrate check takes no --to"])

    def test_a_driver_that_is_not_supported_is_a_wrong_setting(self) -> None:
        done = run("migrate", DATABASE_URL="postgresql+pg8000://me:geheim@h/x")

        assert done.status == 2
        assert "environment DATABASE_URL: database.url: driver 'postgresql+pg8000' is not known" in done.err

    @pytest.mark.parametrize(
        ("driver", "missing", "packages"),
        [
            ("mysql+pymysql", "pymysql", "pymysql"),
            ("postgresql+asyncpg", "asyncpg", "asyncpg"),
            ("postgresql+psycopg", "psycopg", "'psycopg[binary]'"),
            ("sqlite+aiosqlite", "aiosqlite", "aiosqlite"),
        ],
    )
    def test_a_driver_that_is_not_installed_is_a_line_that_names_what_brings_it(
        self, driver: str, missing: str, packages: str
    ) -> None:
        """The drivers' own packages: ours is on no index."""
        url = f"{driver}:///x" if driver.startswith("sqlite") else f"{driver}://me:geheim@h/x"
        # As import finds it when it is not there; in a process of its own, where nothing has imported it yet.
        hidden = f"import sys; sys.modules[{missing!r}] = None"
        done = subprocess.run(
            [sys.executable, "-c", f"{hidden}; from server.cli import main; main(['check'])"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )

        told = done.stdout + done.stderr
        assert re.search(rf"(->|:) pip install {re.escape(packages)}( installs it)?\n", told), told
        assert "onfinish[" not in told
        assert "geheim" not in told
        assert "Traceback" not in told

    def test_a_command_that_needs_it_says_so_in_a_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "pymysql", None)
        monkeypatch.setenv("DATABASE_URL", "mysql+pymysql://me:geheim@h/x")

        assert main(["migrate"]) == 1

        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(": pip install pymysql installs it")
        assert "geheim" not in line

    def test_what_a_package_that_is_there_lacks_is_not_to_be_installed(self, tmp_path: Path) -> None:
        """A fault of the application's code: the traceback has the line that imports it."""
        shop = tmp_path / "shop"
        shop.mkdir()
        (shop / "__init__.py").write_text("import shop.shelves\n")

        with start("migrate", cwd=tmp_path, DATABASE_MODELS="shop", DATABASE_URL="sqlite:///x.db") as process:
            _, err = process.communicate()

        assert process.returncode == 1
        assert err.endswith("ModuleNotFoundError: No module named 'shop.shelves'\n")
        assert "import shop.shelves" in err
        assert "pip install" not in err

    def test_what_the_application_needs_is_told_whatever_the_driver(self, tmp_path: Path) -> None:
        (tmp_path / "shop.py").write_text("import not_there\n")

        done = run(
            "migrate",
            "history",
            cwd=tmp_path,
            DATABASE_MODELS="shop",
            DATABASE_URL="postgresql+psycopg://me:geheim@h/x",
        )

        assert done.status == 1
        [line] = done.told
        assert line.endswith("No module named 'not_there': pip install not_there installs it")


class TestConfig:
    def test_it_shows_each_setting_its_value_and_where_it_came_from(self) -> None:
        done = run(
            "--port",
            "0",
            "config",
            "--no-pool-pre-ping",
            ENVIRONMENT="production",
            DATABASE_URL="postgresql://me:geheim@h/x?sslmode=disable&sslpassword=hush",
            CONNECT_ARGS='{"password": "geheim", "keepalives": 1}',
        )

        assert (done.status, done.err) == (0, "")
        rows = [re.split(r" {2,}", line.strip()) for line in done.out.splitlines()]
        for row in [
            ["environment", "production", "environment ENVIRONMENT"],
            ["port", "0", "flag --port"],
            ["pool_pre_ping", "false", "flag --no-pool-pre-ping".replace("no-", "")],
            ["pool_size", "10", "default"],
            ["grace_s", "5.0", "conf/production.toml"],
            ["query.sslmode", "verify-full", "conf/production.toml, but the url overrides it"],
            ["connect_args.password", "***", "environment CONNECT_ARGS"],
            ["connect_args.keepalives", "1", "environment CONNECT_ARGS"],
            ["url", "postgresql://me:***@h/x?sslmode=disable&sslpassword=***"],
        ]:
            assert row in rows

    def test_the_table_of_the_defaults_fits_a_terminal(self) -> None:
        assert [line for line in run("config").out.splitlines() if len(line) > 80] == []

    def test_as_json_it_has_every_setting(self) -> None:
        done = run("config", "--json", DATABASE_URL="postgresql://me:geheim@h/x", PORT="81")
        entries = json.loads(done.out)

        assert list(entries) == list(names())
        assert entries["http.port"] == {
            "value": 81,
            "origin": "environment PORT",
            "flag": "--port",
            "variable": "PORT",
        }
        assert entries["database.url"]["value"] == "postgresql://me:***@h/x"

    def test_changed_shows_what_is_not_a_default_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "quiet.toml").write_text("")
        flags = ["--port", "81", "--environment", "quiet", "--conf-dir", str(tmp_path)]
        flags += ["--database-url", "sqlite:///x.db"]
        done = run("config", "--changed", *flags, CONNECT_ARGS='{"timeout": 3}')
        as_json = run("config", "--changed", "--json", *flags, CONNECT_ARGS='{"timeout": 3}')

        rows = [re.split(r" {2,}", line.strip()) for line in done.out.splitlines() if line]
        assert ["port", "81", "flag --port"] in rows
        assert ["connect_args.timeout", "3", "environment CONNECT_ARGS"] in rows
        assert "default" not in done.out
        changed = {"environment", "conf_dir", "http.port", "database.url", "database.connect_args"}
        assert set(json.loads(as_json.out)) == changed

    def test_a_reader_that_stops_early_causes_no_complaint(self) -> None:
        with start("config") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            told = process.stderr.read()

        assert (process.returncode, told) == (1, "")


class TestMigrate:
    def test_it_says_what_it_did(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/x.db"
        first, second, check = (
            run(*command, DATABASE_URL=url) for command in (["migrate"], ["migrate"], ["migrate", "check"])
        )

        assert re.fullmatch(r"schema is at ([\w, ]+) \(was empty\)\n", first.out)
        assert re.fullmatch(r"schema is already at ([\w, ]+)\n", second.out)
        assert re.fullmatch(
            r"schema is at ([\w, ]+), as the code expects\n(  \w+: \d+ tables of [\w., ]+\n)+", check.out
        )
        assert [done.status for done in (first, second, check)] == [0, 0, 0]
        assert [done.err for done in (first, second, check)] == ["", "", ""]

    def test_check_tells_each_difference(self, database_url: str, sql: RawSql) -> None:
        sql("CREATE TABLE stray (id integer PRIMARY KEY)")
        sql("ALTER TABLE idempotency_keys ADD COLUMN motto text")
        done = run("migrate", "check", DATABASE_URL=database_url)

        assert (done.status, done.err) == (1, "")
        assert sorted(done.out.splitlines()) == [
            "column idempotency_keys.motto is in the database only",
            "table stray is in the database only",
        ]

    def test_sql_connects_to_nothing(self) -> None:
        done = run("migrate", "--sql", DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/x")

        assert (done.status, done.err) == (0, "")
        assert "CREATE TABLE idempotency_keys" in done.out

    @pytest.mark.parametrize(
        ("command", "url", "reason"),
        [
            ("migrate", "postgresql://me:geheim@127.0.0.1:1/x?sslpassword=hush", "Connection refused"),
            ("migrate check", "postgresql://me:geheim@127.0.0.1:1/x", "Connection refused"),
            ("migrate", "sqlite:////nowhere/at/all.db", "unable to open database file"),
        ],
    )
    def test_a_database_that_cannot_be_reached_is_one_line(self, command: str, url: str, reason: str) -> None:
        done = run(*command.split(), DATABASE_URL=url)

        assert (done.status, done.out) == (1, "")
        (line,) = done.told
        assert reason in line
        assert line.endswith("from environment DATABASE_URL]")

    @pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
    def test_a_refused_log_in_is_one_line(self, database_url: str) -> None:
        wrong, count = re.subn(r"//[^@/]*@", "//stranger:geheim@", database_url)
        assert count == 1
        done = run("migrate", DATABASE_URL=wrong)

        assert (done.status, done.out, len(done.told)) == (1, "", 1)
        assert "stranger" in done.err

    def test_a_revision_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        done = run("migrate", "--to", "nope", DATABASE_URL=f"sqlite:///{tmp_path}/x.db")

        assert (done.status, done.out, len(done.told)) == (1, "", 1)
        assert "there is no revision 'nope'" in done.err

    def test_in_memory_there_is_nothing_to_migrate(self) -> None:
        done = run("migrate", ENVIRONMENT="testing")

        assert (done.status, done.err) == (0, "")
        assert "in memory" in done.out


class TestSignals:
    def test_ctrl_c_is_130_and_silent(self, tmp_path: Path) -> None:
        fifo = tmp_path / "development.toml"
        os.mkfifo(fifo)
        with start("migrate", CONF_DIR=str(tmp_path)) as process:
            writer = self._open_when_read(fifo)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            os.close(writer)

        assert (process.returncode, out, err) == (130, "", "")

    def test_without_a_command_it_serves_until_sigterm(self, tmp_path: Path) -> None:
        with start("--port", "0", "--grace-s=0", cwd=tmp_path) as process:
            assert process.stdout is not None
            banner = process.stdout.readline()
            process.terminate()
            out, err = process.communicate(timeout=30)

        assert re.search(r"http://127\.0\.0\.1:[1-9]\d+/", banner), banner + out + err
        assert process.returncode == 0, err
        assert (tmp_path / "onfinish.db").exists()

    @staticmethod
    def _open_when_read(fifo: Path) -> int:
        """Open a pipe for writing as soon as it has a reader, which is then known to wait."""
        for _ in range(600):
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                time.sleep(0.05)
        pytest.fail("the settings were not read")


class TestCommands:
    @pytest.fixture(params=["", "greetings"], ids=["beside the others", "in a package"])
    def another_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> Iterator[str]:
        """A module that was put beside the others, or into an application's own package there."""
        folder = tmp_path / request.param
        folder.mkdir(exist_ok=True)
        if request.param:
            (folder / "__init__.py").touch()
        (folder / "greet.py").write_text(
            "SUMMARY = 'say hello'\n"
            "def add_arguments(parser): parser.add_argument('--often', type=int, default=1)\n"
            "def run(settings, arguments): return arguments.often\n"
        )
        monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
        yield "greet"
        for name in [name for name in sys.modules if re.fullmatch(r"server\.commands\.greet(ings.*)?", name)]:
            del sys.modules[name]

    def test_a_module_that_is_put_there_is_a_command(self, another_command: str) -> None:
        found = find_commands()
        parser, known = build_parser(found)
        arguments = parser.parse_args(["--port", "1", another_command, "--often", "3", "--pool-size", "4"])

        assert "--often" in known
        assert "_backend" not in found
        assert (arguments.command, arguments.often) == (another_command, 3)
        assert vars(arguments)["setting http.port"] == "1"
        assert vars(arguments)["setting database.pool_size"] == "4"
