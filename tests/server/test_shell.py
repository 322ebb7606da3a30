"""The shell: what it reads and writes, what it says of it, and what it holds meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from server.cli import main
from tests.fixtures.databases import RawSql
from tests.server.terminals import on_a_terminal
from tests.server.test_cli import Run, environment, run

NOTES = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)
"""

READ = "session.scalars(select(Note.text)).all()"
REFUSED = (
    "this shell only reads, and the database refused a write: start it with --write, and write in "
    "`with work() as session:`"
)
ASYNCIO = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


@pytest.fixture
def folder(tmp_path: Path, sql: RawSql) -> Path:
    """Where the application is that has notes; one note is there."""
    (tmp_path / "notes.py").write_text(NOTES)
    sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(64) NOT NULL UNIQUE)")
    sql("INSERT INTO notes (id, text) VALUES (1, 'tea')")
    return tmp_path


@pytest.fixture(params=["plain", "asyncio"])
def url(request: pytest.FixtureRequest, database_url: str) -> str:
    """The same database by a driver that blocks, and by one of asyncio's."""
    if request.param == "plain":
        return database_url
    given = make_url(database_url)
    found = given.set(drivername=ASYNCIO[given.get_backend_name()])
    return found.render_as_string(hide_password=False)


def shell(folder: Path, *arguments: str, url: str, **variables: str) -> Run:
    return run("shell", *arguments, cwd=folder, DATABASE_URL=url, DATABASE_MODELS="notes", **variables)


def test_code_reads_with_the_models_by_name(folder: Path, url: str):
    done = shell(folder, "-c", f"print({READ}, session.get(Note, 1).text)", url=url)

    assert (done.status, done.out, done.err) == (0, "['tea'] tea\n", "")


@pytest.mark.parametrize(
    "code",
    [
        "session.execute(sa.delete(Note))",
        "session.add(Note(id=2, text='more'))",
        "session.get(Note, 1).text = 'other'",
    ],
)
def test_a_write_is_refused_in_a_sentence(folder: Path, database_url: str, sql: RawSql, code: str):
    """Also one that would only be flushed later."""
    done = shell(folder, "-c", code, url=database_url)

    assert (done.status, done.out, done.told) == (1, "", [REFUSED])
    assert sql("SELECT text FROM notes") == [{"text": "tea"}]


def test_each_block_of_work_is_a_transaction_and_says_what_became_of_it(folder: Path, url: str, sql: RawSql):
    code = "\n".join(
        [
            "with work() as session:",
            "    session.add(Note(id=2, text='milk'))",
            "try:",
            "    with work() as session:",
            "        session.add(Note(id=3, text='lost'))",
            "        session.flush()",
            "        raise LookupError",
            "except LookupError:",
            "    pass",
            "with work() as session:",
            "    session.add(Note(id=4, text='milk'))",
        ]
    )

    done = shell(folder, "--write", "-c", code, url=url)

    assert done.status == 1
    assert done.told == [
        "committed",
        "rolled back: nothing is kept",
        "rolled back: nothing is kept",
        "Conflict: the data as it stands does not allow this",
    ]
    assert sql("SELECT id FROM notes ORDER BY id") == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_lost_commit_is_said_to_be_unknown(folder: Path, database_url: str):
    """Its connection ends while COMMIT is under way, and no commit marker is kept."""
    code = "\n".join(
        [
            "from sqlalchemy import event",
            "with work() as session:",
            "    session.add(Note(id=2, text='milk'))",
            "    session.execute(text('CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5); RETURN NULL; END $$'))",
            "    session.execute(text('CREATE CONSTRAINT TRIGGER late AFTER INSERT ON notes "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ends()'))",
            "    session.add(Note(id=3, text='more'))",
        ]
    )

    done = shell(folder, "--write", "-c", code, url=database_url, COMMIT_WITNESS="false")

    assert done.status == 1
    assert done.told[0] == "unknown: whether it was committed, the database has not said"
    assert done.told[1].startswith("OutcomeUnknown: the connection was lost during COMMIT")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_script_from_a_pipe_is_run_whole(folder: Path, database_url: str):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "server", "shell"],
        input=f"for text in {READ}:\n    print(text)\n\nraise SystemExit(7)\n",
        cwd=folder,
        env=environment(DATABASE_URL=database_url, DATABASE_MODELS="notes"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (7, "tea\n", "")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("if", "SyntaxError: invalid syntax"),
        ("session.execute(text('SELECT nope'))", r"NotInSchema: .*no such column: nope"),
        ("session.commit()", r"SessionNotOwned: shell: `session.commit\(\)` was called.*"),
        ("session", "NameError: name 'session' is not defined"),
    ],
)
def test_an_error_ends_with_its_sentence_and_status_1(
    database_url: str, code: str, told: str, capsys: pytest.CaptureFixture[str]
):
    """And a traceback, where there is one, has the lines of the code alone."""
    writes = ["--write"] if code == "session" else []

    status = main(["shell", *writes, "-c", code, "--database-url", database_url])

    shown = capsys.readouterr()
    assert (status, shown.out) == (1, "")
    assert re.fullmatch(told, shown.err.splitlines()[-1]), shown.err
    assert "shell.py" not in shown.err


def test_a_database_that_cannot_be_reached_is_a_line(tmp_path: Path):
    done = run(
        "shell", "-c", "session.scalar(text('SELECT 1'))", DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/x"
    )

    assert done.status == 1
    assert re.match(r"Unreachable: .*Connection refused", done.err.replace("\n", " ")), done.err


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_production_warns_before_it_writes(folder: Path, database_url: str):
    given = make_url(database_url).update_query_dict({"sslmode": "disable"})
    url = given.render_as_string(hide_password=False)
    written, read = (
        shell(folder, *mode, "-c", "pass", url=url, ENVIRONMENT="production") for mode in (["--write"], [])
    )

    assert written.told[0].startswith("environment production: what this shell commits is real")
    assert (read.status, read.err) == (0, "")


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_nothing_is_in_a_transaction_between_two_statements(folder: Path, url: str):
    code = "\n".join(
        [
            READ,
            "with database.writer.scopes.connect() as other:",
            "    seen = 'SELECT state, xact_start FROM pg_stat_activity WHERE datname = current_database() '",
            "    print(other.execute(text(seen + 'AND pid <> pg_backend_pid()')).all())",
        ]
    )

    done = shell(folder, "-c", code, url=url)

    assert done.out == "[('idle', None)]\n", done.err


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestOnATerminal:
    """Python's own shell, and IPython."""

    @pytest.mark.parametrize("kind", ["plain", pytest.param("ipython", marks=pytest.mark.slow)])
    def test_it_reads_and_says_what_it_is(self, folder: Path, database_url: str, kind: str):
        """The banner has the database without its password; an error leaves the session usable."""
        plain = ["--plain"] if kind == "plain" else []
        lines = [
            f"print('first', {READ})",
            "session.execute(text('SELECT nope'))",
            "session.add(Note(id=2, text='more'))",
            f"print('then', {READ})",
            "print('held', database.reader.scopes.pool.checkedout())",
            "exit()",
        ]

        shown = on_a_terminal(
            "shell",
            *plain,
            typed="".join(f"{line}\r" for line in lines),
            cwd=folder,
            DATABASE_URL=database_url,
            DATABASE_MODELS="notes",
            IPYTHONDIR=str(folder / "ipython"),
        )

        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
        assert "onfinish shell (development)" in text
        assert "reads only: `session`" in text
        password = make_url(database_url).password
        assert password is None or password not in text
        assert re.search(r"names +.*Note,", text)
        assert "first ['tea']" in text
        assert "NotInSchema: " in text
        assert "this shell only reads" in text
        assert "then ['tea']" in text
        assert "held 0" in text
        assert ("In [1]" in text) == (kind == "ipython")

    def test_it_writes_in_blocks(self, folder: Path, database_url: str, sql: RawSql):
        lines = ["with work() as session:", "    session.add(Note(id=2, text='milk'))", "", "exit()"]

        shown = on_a_terminal(
            "shell",
            "--write",
            "--plain",
            typed="".join(f"{line}\r" for line in lines),
            cwd=folder,
            DATABASE_URL=database_url,
            DATABASE_MODELS="notes",
        )

        assert re.search(r"\ncommitted\r\n", shown), shown
        assert sql("SELECT text FROM notes ORDER BY id") == [{"text": "tea"}, {"text": "milk"}]
