"""Makes .venv fit for a purpose: ``serve`` (the package), or ``test`` (the package and what its checks need).

Does nothing where .venv is up to date. Run by scripts/serve and scripts/test, with any Python from 3.11 on
and nothing installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / "unfinished"
WHAT = {"serve": ".", "test": ".[test]"}


def main(purpose: str) -> None:
    """Make .venv, or bring it up to date, while no other process does."""
    with _alone() as lock:
        foundation, installed = _stamps()
        if _read(VENV / "python.stamp") != foundation or UNFINISHED.exists() or not _runs(PYTHON, "-c", ""):
            _say(f"making .venv with Python {sys.version.split()[0]} (a minute or two, the first time only)")
            _make()
            (VENV / "python.stamp").write_text(foundation)
        if _read(VENV / f"{purpose}.stamp") == installed:
            return
        _say(f"installing what {purpose} needs into .venv")
        # Stays where this process is killed, or pip fails: half a package may be installed then, and only
        # a new .venv repairs that.
        UNFINISHED.touch()
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--editable", WHAT[purpose]]
        # Also where a pip.conf sets --user, which a .venv refuses. If this process is killed while pip
        # continues, pip still has the lock.
        environ = os.environ | {"PIP_USER": "0"}
        if subprocess.run(command, cwd=ROOT, env=environ, pass_fds=[lock], check=False).returncode:
            _give_up("pip could not install it, see above; the next run makes a new .venv")
        UNFINISHED.unlink()
        for served in {"serve", purpose}:  # what is needed to test includes what is needed to serve
            (VENV / f"{served}.stamp").write_text(installed)


def _stamps() -> tuple[str, str]:
    """What .venv was made with, and what is installed in it.

    The folder's name is part of it: scripts in .venv/bin and the editable install contain it.
    """
    foundation = f"{sys.version_info[:3]} {ROOT}"
    files = b"".join((ROOT / name).read_bytes() for name in ("setup.cfg", "setup.py", "pyproject.toml"))
    return foundation, f"{foundation} {hashlib.sha256(files).hexdigest()}"


@contextlib.contextmanager
def _alone() -> Iterator[int]:
    """Wait until no other process works on .venv. The lock ends with the processes that have it open."""
    try:
        lock = (ROOT / ".venv.lock").open("w")
    except OSError as exc:
        _give_up(f"{ROOT} is not writable ({exc.strerror}), and .venv is to be made there")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process that is making .venv")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _make() -> None:
    """A new .venv with pip in it, also where Debian's python3-venv, which contains pip, is not installed."""
    if VENV.is_symlink():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(VENV)
    if importlib.util.find_spec("ensurepip"):
        done = _quietly(PYTHON, "-m", "ensurepip", "--default-pip")
    elif importlib.util.find_spec("pip"):
        done = _quietly(sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip")
    else:
        done = _pip_from_its_wheel()
    if done.returncode or not _runs(PYTHON, "-m", "pip", "--version"):
        _give_up(f"no pip for .venv: run `apt install python3-venv`, and then this again\n{done.stderr}")


def _pip_from_its_wheel() -> subprocess.CompletedProcess[str]:
    """Install pip by the pip inside of its own wheel."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    try:
        with urllib.request.urlopen(index, timeout=30) as answer:
            page = answer.read().decode()
        # The HTML form of the index, which every mirror supports. The name of a beta does not match.
        wheels = re.findall(
            r'<a href="([^"#]+/(pip-([0-9.]+)-py3-none-any\.whl)#sha256=([0-9a-f]{64}))"(?![^>]*yanked)', page
        )
        url, name, _, digest = max(wheels, key=lambda wheel: [int(n) for n in wheel[2].split(".")])
        with urllib.request.urlopen(urllib.parse.urljoin(index, url), timeout=60) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its wheel arrived damaged")
    except (OSError, ValueError) as exc:
        return subprocess.CompletedProcess([], 1, "", f"(nor could pip be fetched: {exc})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return _quietly(PYTHON, path / "pip", "install", "--no-index", path)


def _quietly(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _runs(*command: str | Path) -> bool:
    try:
        return _quietly(*command).returncode == 0
    except OSError:
        return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _say(text: str) -> None:
    print(f"onfinish: {text}", file=sys.stderr, flush=True)


def _give_up(text: str) -> None:
    _say(text.rstrip())
    raise SystemExit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
