"""Installed beside an application that has `conf`, `db`, `handlers`, `server` and `tests` of its own."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from conf import DatabaseSettings
from db.schema import migrate
from setup import PACKAGES
from tests.fixtures.waiting import wait_until
from tests.packaging.application import BEFORE, FILES, change, write_application
from tests.packaging.conftest import ROOT, Environment

START_S = 60.0


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the application."""
    return write_application(tmp_path / "shop")


@contextlib.contextmanager
def serving(environment: Environment, folder: Path, *command: str) -> Iterator[tuple[str, Path]]:
    """A server, until the end of the block: its address, and the file of what it logs. It has to end well."""
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(
            [environment.folder / "bin" / command[0], *command[1:], "--port", "0"],
            cwd=folder,
            env=environment.environ,
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
        )
    try:
        said = re.compile(r"http://[^/\s]+")
        assert wait_until(
            lambda: "stop with Ctrl-C\n" in out.read_text() or process.poll() is not None, timeout_s=START_S
        )
        address = said.search(out.read_text())
        assert address is not None, err.read_text()
        yield address[0], err
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0, err.read_text()
    finally:
        process.kill()
        process.wait()


def get(url: str) -> Any:
    """The JSON of an answer; an error is raised."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


LINES_CHANGED_MAX = 20


def test_an_application_takes_the_handler_in_few_lines_as_the_page_shows():
    changed = change()
    page = (ROOT / "docs" / "install.md").read_text()

    written = [line for line in changed if line.startswith("+")]
    assert 0 < len(written) <= LINES_CHANGED_MAX
    assert "```diff\n" + "\n".join(changed) + "\n```\n" in page
    assert f"{len(written)} lines are written" in page


@pytest.mark.slow
def test_what_it_was_before_worked(environment: Environment, tmp_path: Path):
    """Else the change would be from something that never ran."""
    folder = write_application(tmp_path / "shop", FILES | BEFORE)

    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")

    done = environment.run(*command, cwd=folder, environ=alone)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_application_is_this_one():
    """What docs/install.md shows runs below."""
    blocks = re.findall(
        r"^```python\n# (\S+)\n(.*?)^```", (ROOT / "docs" / "install.md").read_text(), re.M | re.S
    )

    assert [name for name, _ in blocks] == ["handlers/orders.py", "handlers/base.py", "server/app.py"]
    for name, text in blocks:
        assert text == dedent(FILES[name]).lstrip()


@pytest.mark.slow
def test_it_is_one_package_and_its_metadata(environment: Environment):
    """Nothing else is at the top level of site-packages."""
    there = {path.name for path in environment.site_packages.iterdir()} - environment.before - {"__pycache__"}

    assert there == {"onfinish", "onfinish-0.1.0.dist-info"}
    info = environment.site_packages / "onfinish-0.1.0.dist-info"
    assert (info / "top_level.txt").read_text() == "onfinish\n"
    record = [name for name, *_ in csv.reader((info / "RECORD").read_text().splitlines())]
    assert {name.partition("/")[0] for name in record} == {"onfinish", "onfinish-0.1.0.dist-info", ".."}
    assert [name for name in record if name.startswith("..")] == ["../../../bin/onfinish"]


@pytest.mark.slow
def test_each_has_its_own_packages(environment: Environment, shop: Path):
    """All modules of onfinish together import none of the application's, and define all under their names."""
    program = """
import importlib, pkgutil, sys
import onfinish
for module in pkgutil.walk_packages(onfinish.__path__, "onfinish."):
    if not module.name.endswith(("__main__", ".env")):
        importlib.import_module(module.name)
mine = {"conf", "db", "handlers", "server", "tests"}
print(sorted(mine & set(sys.modules)))
for name, module in sorted(sys.modules.items()):
    for each in vars(module).values() if name.startswith("onfinish.") else ():
        if isinstance(each, type) and each.__module__.partition(".")[0] in mine:
            print(name, each)
import conf, db.errors, handlers.base, server.app
print(conf.URL, db.errors.NoSuchOrder.__module__, handlers.base.SessionHandler.__module__)
"""

    done = environment.run("python", "-W", "error", "-c", program, cwd=shop)

    assert done.stdout == "[]\nsqlite:///shop.db db.errors onfinish.handlers.base\n", (
        done.stdout + done.stderr
    )


@pytest.mark.slow
def test_without_the_application_there_is_no_package_of_these_names(environment: Environment, tmp_path: Path):
    for package in (*PACKAGES, "tests", "setup"):
        done = environment.run("python", "-c", f"import {package}", cwd=tmp_path)

        assert f"No module named '{package}'" in done.stderr, package


@pytest.mark.slow
def test_the_applications_tests_pass(environment: Environment, shop: Path):
    # Without the plugins of the project's tests, which are installed there too.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    done = environment.run(
        "python", "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", cwd=shop, environ=alone
    )

    assert re.search(r"\b2 passed\b", done.stdout), done.stdout + done.stderr


@pytest.mark.slow
def test_the_applications_types_are_checked(environment: Environment, shop: Path):
    """mypy strict sees the types of onfinish: what is right passes, and a mistake is found."""
    check = ["python", "-m", "mypy", "--strict", "--cache-dir", str(shop.parent / "mypy"), "."]
    wrong = "from onfinish.db import Database\n\nDatabase(settings=3).writer.engin\n"

    right = environment.run(*check, cwd=shop)
    (shop / "wrong.py").write_text(wrong)
    found = environment.run(*check, cwd=shop)

    assert right.returncode == 0, right.stdout + right.stderr
    assert 'wrong.py:3: error: Argument "settings" to "Database"' in found.stdout
    assert 'wrong.py:3: error: "Endpoint" has no attribute "engin"' in found.stdout


@pytest.mark.slow
def test_objects_of_both_go_to_processes_and_back(environment: Environment, shop: Path):
    done = environment.run("python", "-W", "error", "-m", "db.elsewhere", cwd=shop)

    assert done.stdout == "example.org Outcome.COMMITTED example.org Outcome.COMMITTED\n", done.stderr


@pytest.mark.slow
def test_the_commands_migrate_and_check(environment: Environment, shop: Path):
    """And what they advise is what can be run here."""
    kernel = environment.run("onfinish", "migrate", "--to", "kernel_0001", cwd=shop)
    before = environment.run("onfinish", "check", cwd=shop)
    migrated = environment.run("onfinish", "migrate", cwd=shop)
    compared = environment.run("python", "-m", "onfinish.server", "migrate", "check", cwd=shop)
    after = environment.run("onfinish", "check", cwd=shop)

    assert "run `onfinish migrate`" in re.sub(r"\s+", " ", before.stdout)
    assert "python -m server" not in before.stdout
    at = kernel.stdout.removeprefix("schema is at ").removesuffix(" (was empty)\n")
    assert migrated.stdout == f"schema is at {migrate.head()} (was {at})\n", migrated.stderr
    assert compared.returncode == 0, compared.stdout
    assert (after.returncode, after.stdout.splitlines()[-1][:8]) == (0, "0 errors"), after.stdout


@pytest.mark.slow
def test_the_applications_tables_have_revisions_of_their_own(environment: Environment, shop: Path):
    """Found by `database.models`, in the application's folder; none of the sample's tables is made."""
    models = {"DATABASE_MODELS": "db"}
    revision = ["migrate", "revision", "-m", "orders", "--autogenerate"]

    refused = environment.run("onfinish", *revision, cwd=shop)
    written = environment.run("onfinish", *revision, cwd=shop, environ=models)
    migrated = environment.run("onfinish", "migrate", cwd=shop, environ=models)
    checked = environment.run("python", "-m", "onfinish.server", "migrate", "check", cwd=shop, environ=models)
    read = environment.run(
        "onfinish", "shell", "-c", "print(session.get(Order, 1))", cwd=shop, environ=models
    )

    assert (refused.returncode, "name the modules that have the application's tables" in refused.stderr) == (
        1,
        True,
    )
    path = shop / "db/migrations/app_0001_orders.py"
    assert written.stdout == f"{path}: read it before it is run\n", written.stderr
    assert "sa.UniqueConstraint(" in path.read_text()
    assert migrated.stdout == "schema is at app_0001, kernel_0003 (was empty)\n", migrated.stderr
    assert checked.stdout.splitlines() == [
        "schema is at app_0001, kernel_0003, as the code expects",
        "  kernel: 2 tables of onfinish.db.idempotency, onfinish.db.work.commit_marker",
        "  app: 1 table of db, db.base, db.elsewhere, db.errors, db.orders",
    ], checked.stderr
    assert (read.stdout, read.stderr) == ("None\n", "")


@pytest.mark.slow
def test_clone_and_wheel_share_a_database(environment: Environment, shop: Path):
    """One version table, with revisions of the same names."""
    migrate.upgrade(DatabaseSettings(url=f"sqlite:///{shop / 'onfinish.db'}"))

    there = environment.run("onfinish", "migrate", cwd=shop)

    assert there.stdout == f"schema is already at {migrate.head()}\n", there.stderr


@pytest.mark.slow
def test_usage_is_that_of_the_command_that_was_run(environment: Environment, shop: Path):
    script = environment.run("onfinish", "--help", cwd=shop)
    module = environment.run("python", "-m", "onfinish.server", "--help", cwd=shop)
    own = environment.run("python", "-m", "server", cwd=shop)

    assert script.stdout.startswith("usage: onfinish [COMMAND]")
    assert module.stdout.startswith("usage: python -m onfinish.server [COMMAND]")
    assert "<conf-dir>/<environment>.toml" in script.stdout
    assert own.stdout == "the shop\n"


@pytest.mark.slow
def test_settings_are_found_and_named_where_they_are(environment: Environment, shop: Path):
    """The package's file, and not the folder `conf` of the application."""
    production = {"ENVIRONMENT": "production", "DATABASE_URL": "postgresql://user:password@example.org/shop"}

    shown = environment.run("onfinish", "config", cwd=shop, environ=production)

    assert re.search(r"grace_s +5\.0 +onfinish/conf/production\.toml", shown.stdout), shown.stdout


@pytest.mark.slow
def test_loggers_have_the_names_that_the_clone_has(environment: Environment, shop: Path):
    """What an application configures, and what an operator filters, does not depend on the installation."""
    program = """
import importlib, logging, pkgutil
for name in {!r}:
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if not module.name.endswith(("__main__", ".env")):
            importlib.import_module(module.name)
print(sorted(name for name in logging.root.manager.loggerDict if name.startswith("onfinish")))
"""

    installed = environment.run("python", "-c", program.format(["onfinish"]), cwd=shop)
    cloned = subprocess.run(
        [sys.executable, "-c", program.format(PACKAGES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert installed.stdout == cloned.stdout, installed.stderr
    assert "'onfinish.db'" in cloned.stdout


@pytest.mark.slow
def test_it_serves(environment: Environment, shop: Path):
    with serving(environment, shop, "onfinish", "serve") as (url, err):
        assert get(f"{url}/readyz")["status"] == "ready"
    assert "Traceback" not in err.read_text()


@pytest.mark.slow
def test_it_serves_with_two_processes(environment: Environment, shop: Path):
    """Also as a module; each process answers."""
    command = ["python", "-m", "onfinish.server", "serve", "--processes", "2", "--no-autoreload"]
    with serving(environment, shop, *command) as (url, err):
        pids = {each["pid"] for each in get(f"{url}/stats")["processes"]}

        assert len(pids) == 2
    assert "Traceback" not in err.read_text()


@pytest.mark.slow
def test_it_compares(environment: Environment, shop: Path):
    """In processes that it starts, with scenarios that it finds by their package."""
    done = environment.run("onfinish", "compare", "--quick", cwd=shop)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (shop / "onfinish-compare.html").stat().st_size > 10_000
