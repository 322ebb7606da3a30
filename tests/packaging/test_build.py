"""What is built is whole, and nothing but what is to be installed; however it is built, it is the same."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

from setup import PACKAGES, move_imports
from tests.packaging.conftest import ROOT, Hooks

MADE = {PurePosixPath("onfinish/__init__.py"), PurePosixPath("onfinish/py.typed")}
ENTRY_POINTS = """[console_scripts]
onfinish = {0}server.__main__:main

[pytest11]
onfinish = {0}server.testing.plugin
"""


@pytest.fixture(scope="module")
def opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(opened: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(opened.read(_named(opened, "METADATA")))


def _named(wheel: zipfile.ZipFile, name: str) -> str:
    [found] = [each for each in wheel.namelist() if each.endswith(f".dist-info/{name}")]
    return found


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _metadata_in(folder: Path) -> dict[str, str]:
    [info] = folder.glob("*.dist-info")
    return {name: (info / name).read_text() for name in ("METADATA", "entry_points.txt", "top_level.txt")}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_four_packages_and_no_other(opened, tracked):
    """Below `onfinish`. Settings files, type markers and migrations included; tests and scripts not."""
    installed = {PurePosixPath(name) for name in opened.namelist() if ".dist-info/" not in name}

    assert installed == {PurePosixPath("onfinish", path) for path in tracked} | MADE
    below = {path.relative_to("onfinish") for path in installed}
    assert {PurePosixPath(package, "py.typed") for package in PACKAGES} <= below
    assert {
        PurePosixPath("conf", f"{name}.toml") for name in ("development", "testing", "production")
    } <= below
    assert any(path.match("db/schema/migrations/kernel/*_*.py") for path in below)
    assert any(path.match("db/*/migrations/*_*.py") for path in below)  # an application's
    assert PurePosixPath("server/compare/report.html") in below


@pytest.mark.slow
def test_its_modules_are_the_trees_with_their_imports_moved(opened, tracked):
    for path in tracked:
        source = (ROOT / path).read_text()
        expected = move_imports(source) if path.suffix == ".py" else source

        assert opened.read(f"onfinish/{path}").decode() == expected, path


@pytest.mark.slow
def test_the_package_has_a_docstring_and_its_version(opened, metadata):
    namespace: dict[str, str] = {}

    exec(opened.read("onfinish/__init__.py"), namespace)

    assert namespace["__version__"] == metadata["Version"]
    assert namespace["__doc__"] == f"{metadata['Summary']}."


@pytest.mark.slow
def test_the_console_script_is_the_servers_main(opened):
    assert opened.read(_named(opened, "entry_points.txt")).decode() == ENTRY_POINTS.format("onfinish.")


@pytest.mark.slow
def test_the_licence_is_in_it(opened):
    assert opened.read(_named(opened, "licenses/LICENSE")) == (ROOT / "LICENSE").read_bytes()


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
        "greenlet",
        "psycopg2-binary",
        "alembic",
        "pydantic",
        "prometheus-client",
        "tqdm",
        "typing-extensions",
    }
    assert set(metadata.get_all("Provides-Extra")) == {"async", "mysql", "fast", "report", "test", "testing"}


@pytest.mark.slow
def test_the_metadata_step_says_what_the_wheel_says(tree, hooks: Hooks, opened, tmp_path):
    """Resolvers read it, and build nothing."""
    prepared = tmp_path / "prepared"
    prepared.mkdir()

    hooks(tree).prepare_metadata_for_build_wheel(str(prepared), _allow_fallback=False)

    said = _metadata_in(prepared)
    assert said == {name: opened.read(_named(opened, name)).decode() for name in said}
    assert said["top_level.txt"] == "onfinish\n"


@pytest.mark.slow
def test_a_wheel_from_the_sdist_is_the_same(tree, hooks: Hooks, wheel, tmp_path):
    sdist = tmp_path / hooks(tree).build_sdist(str(tmp_path))
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()

    again = tmp_path / hooks(unpacked).build_wheel(str(tmp_path))

    assert _contents(again) == _contents(wheel)
    assert not (unpacked / "tests").exists()  # without their fixtures they would be of no use


@pytest.mark.slow
def test_nothing_of_an_earlier_build_is_packed(tree, hooks: Hooks, wheel, tmp_path):
    """setuptools leaves it in ``build``: modules that are gone since, and the names from before."""
    for stale in ("conf/names.py", "onfinish/db/gone.py"):
        path = tree / "build" / "lib" / stale
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    again = tmp_path / hooks(tree).build_wheel(str(tmp_path))

    assert _contents(again) == _contents(wheel)


@pytest.mark.slow
def test_a_build_leaves_no_metadata_in_the_tree(tree, hooks: Hooks, tmp_path):
    """An editable install of the same tree would be read with the wheel's entry points."""
    hooks(tree).build_sdist(str(tmp_path))
    hooks(tree).get_requires_for_build_wheel()
    hooks(tree).build_wheel(str(tmp_path))
    hooks(tree).get_requires_for_build_editable()
    hooks(tree).build_editable(str(tmp_path))

    assert list(tree.glob("*.egg-info")) == []


@pytest.mark.slow
def test_an_editable_install_is_a_path_to_the_tree(tree, hooks: Hooks, tmp_path):
    """Four packages under their own names, and nothing rewritten; its metadata step agrees with it."""
    prepared, before = tmp_path / "prepared", _files(tree)
    prepared.mkdir()

    hooks(tree).prepare_metadata_for_build_editable(str(prepared))
    built = tmp_path / hooks(tree).build_editable(str(tmp_path))

    contents = _contents(built)
    assert [name for name in contents if ".dist-info/" not in name] == ["__editable__.onfinish-0.1.0.pth"]
    assert contents["__editable__.onfinish-0.1.0.pth"].decode() == f"{tree}\n"
    said = _metadata_in(prepared)
    assert said["entry_points.txt"] == ENTRY_POINTS.format("")
    assert said["top_level.txt"].split() == sorted(PACKAGES)
    for name, text in said.items():
        assert contents[f"onfinish-0.1.0.dist-info/{name}"].decode() == text
    assert _files(tree) == before


def _files(tree: Path) -> dict[Path, bytes]:
    files = [path for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(tree): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_git_url_brings_the_same(tree, wheel, tmp_path):
    """``pip install git+https://…`` of the clone as it is committed."""
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]

    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, f"git+file://{tree}"],
        check=True,
    )

    [again] = tmp_path.glob("*.whl")
    assert _contents(again) == _contents(wheel)


def test_the_console_script_of_this_installation_runs():
    """``onfinish`` starts the program from any folder."""
    script = shutil.which("onfinish", path=Path(sys.executable).parent)

    result = subprocess.run([str(script), "--help"], check=False, capture_output=True, text=True, cwd="/")

    assert result.returncode == 0, result.stderr
    assert "migrate" in result.stdout
