"""What is built of this tree, and an environment with nothing but that and its dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from pyproject_hooks import BuildBackendHookCaller, quiet_subprocess_runner

from setup import PACKAGES

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD_FILES = (
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
)

Hooks = Callable[[Path], BuildBackendHookCaller]


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which the wheel is installed. Lives as long as the test process."""

    folder: Path
    before: frozenset[str]
    """What was in its site-packages before."""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    @property
    def environ(self) -> dict[str, str]:
        """The variables of its commands: nothing of those of the tests."""
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    def run(
        self, *command: str, cwd: Path, environ: Mapping[str, str] | None = None, timeout_s: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; the first word is a program of this environment."""
        program, *arguments = command
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=cwd,
            env=self.environ | dict(environ or {}),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


@pytest.fixture(scope="session")
def tracked() -> list[PurePosixPath]:
    """The files of the four packages as the clone has them, made files left out."""
    return [
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    ]


@pytest.fixture
def tree(tmp_path: Path, tracked: list[PurePosixPath]) -> Path:
    """A copy of the clone to build in: setuptools leaves its own behind."""
    return _copy(tmp_path / "tree", tracked)


def _copy(to: Path, tracked: list[PurePosixPath]) -> Path:
    for path in [*map(str, tracked), *BUILD_FILES, "tests/__init__.py", "tests/packaging/test_strings.py"]:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes((ROOT / path).read_bytes())
    return to


@pytest.fixture(scope="session")
def hooks() -> Hooks:
    """``hooks(tree)``: the build backend of a tree, as pip and `build` call it.

    Not isolated: what builds it is in the test extra already, and the test needs no network.
    """

    return lambda tree: BuildBackendHookCaller(str(tree), "setup", ["."], quiet_subprocess_runner)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, tracked: list[PurePosixPath], hooks: Hooks) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    return folder / hooks(_copy(folder / "tree", tracked)).build_wheel(str(folder))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """A fresh environment with the wheel, which shares the dependencies of this one, but not its clone."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    made = Environment(folder, frozenset())
    # A path that a .pth file adds is no site folder: .pth files there, such as the clone's, have no effect.
    (made.site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    made = Environment(folder, frozenset(path.name for path in made.site_packages.iterdir()))
    command = [sys.executable, "-m", "pip", "--python", str(made.python), "install", "--quiet"]
    # Not what is found through the .pth file, where onfinish is installed already.
    command += ["--no-index", "--no-deps", "--ignore-installed", "--disable-pip-version-check"]
    subprocess.run([*command, str(wheel)], check=True, env=os.environ | {"PIP_USER": "0"})
    assert shutil.which("onfinish", path=folder / "bin")
    return made
