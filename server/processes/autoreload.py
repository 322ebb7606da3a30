"""Restart when a file of the program has changed, in development."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

log = logging.getLogger("onfinish.server")

_LOOK_EVERY_S = 0.5
_TRIAL_MAX_S = 60.0

_SERVER = __name__.removesuffix(".processes.autoreload")
_TRIAL = """\
import sys
sys.path[:] = {path!r}
import {server}.processes.lifecycle, {server}.processes.supervisor
from {server}.cli import find_commands
find_commands()
"""


class Autoreload:
    """Watches the program's files. Lives from `start` to `stop`, or until the process is restarted.

    Tornado's restarts whatever the files contain: after a syntax error the process has ended, and does not
    see the correction. Here a separate process imports the change first, and the old code keeps serving
    until that succeeds.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, on the running loop: changes from now on are detected."""
        self._task = asyncio.get_running_loop().create_task(self._look(_modified_at()))

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, known: dict[str, int]) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = await asyncio.to_thread(_modified_at)
            changed = [path for path, at in found.items() if known.get(path) != at]
            known |= found  # a file that is missing may be about to be replaced
            if not changed:
                continue
            fault = await asyncio.to_thread(_fault)
            if not fault:
                _restart(changed)
            log.error("the change cannot be loaded; the code loaded before keeps serving:\n%s", fault)


def _modified_at() -> dict[str, int]:
    """The times of change of the program's files: those in the folders of loaded modules, libraries apart."""
    found: dict[str, int] = {}
    for folder in set(_folders()):
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if entry.name.endswith(".py") and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):  # renamed meanwhile
                        found[entry.path] = entry.stat().st_mtime_ns
    return found


def _folders() -> Iterator[str]:
    libraries = tuple(
        sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
    )
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and not file.startswith(libraries):
            yield os.path.dirname(file)


def _fault() -> str:
    """Python's message why the program's files cannot be loaded; empty where they can."""
    command = [sys.executable, "-c", _TRIAL.format(path=sys.path, server=_SERVER)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_MAX_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""


def _restart(changed: list[str]) -> None:
    """Replace the process by a new one with the same command line; requests in flight are dropped."""
    log.info("%s changed: restarting", ", ".join(changed))
    logging.shutdown()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
