"""What is built is whole, and nothing but what is to be installed."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"conf", "db", "handlers", "server"}


@pytest.fixture(scope="module")
def tracked() -> list[PurePosixPath]:
    """The files of the four packages as the clone has them, made files left out."""
    return [
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    ]


@pytest.fixture(scope="module")
def wheel(
    tmp_path_factory: pytest.TempPathFactory, tracked: list[PurePosixPath]
) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy, for setuptools leaves its own behind in the folder."""
    source = tmp_path_factory.mktemp("source")
    others = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "tests/__init__.py")
    for path in [*map(str, tracked), *others]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes((ROOT / path).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    # Not isolated: what builds it is in the test extra already, and the test needs no network.
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
    )
    [built] = out.glob("*.whl")
    with zipfile.ZipFile(built) as wheel:
        yield wheel


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_four_packages_and_no_other(wheel, tracked):
    """Settings files, type markers and migrations included; tests, scripts and the like not."""
    installed = {PurePosixPath(name) for name in wheel.namelist() if ".dist-info/" not in name}

    assert installed == set(tracked)
    assert {path.parts[0] for path in installed} == PACKAGES
    assert {PurePosixPath(package, "py.typed") for package in PACKAGES} <= installed
    assert {
        PurePosixPath("conf", f"{name}.toml") for name in ("development", "testing", "production")
    } <= installed
    assert any(path.match("db/schema/migrations/kernel/*_*.py") for path in installed)
    assert any(path.match("db/*/migrations/*_*.py") for path in installed)  # an application's
    assert PurePosixPath("server/compare/report.html") in installed


@pytest.mark.slow
def test_the_console_script_is_the_servers_main(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]

    assert wheel.read(name).decode().split("\n")[:2] == [
        "[console_scripts]",
        "onfinish = server.__main__:main",
    ]


@pytest.mark.slow
def test_the_metadata_say_what_it_is_and_needs(metadata):
    """A dependency is added here too, so that none comes in unnoticed."""
    assert metadata["Name"] == "onfinish"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.split(">")[0].split("<")[0] for line in needed} == {
        "tornado",
        "SQLAlchemy",
        "psycopg2-binary",
        "alembic",
        "pydantic",
        "pydantic-settings",
        "prometheus-client",
        "tqdm",
        "typing-extensions",
    }
    assert set(metadata.get_all("Provides-Extra")) == {"async", "mysql", "fast", "report", "test"}


def test_the_console_script_of_this_installation_runs():
    """``onfinish`` starts the program from any folder."""
    result = subprocess.run(
        [Path(sys.executable).with_name("onfinish"), "--help"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
    )

    assert result.returncode == 0, result.stderr
    assert "migrate" in result.stdout
