"""Starting again when a file of the program has changed: in development."""

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

_TRIAL = """\
import sys
sys.path[:] = {path!r}
import server.processes.lifecycle, server.processes.supervisor
from server.cli import find_commands
find_commands()
"""


class Autoreload:
    """Looks at the program's files. Lives from `start` to `stop`, or until the process begins anew.

    Tornado's begins anew whatever the files hold: a process that a syntax error ends does not notice that it
    is mended. Here the change is first loaded by a process of its own, and the code from before serves on
    until one can be loaded.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop: a change from now on is noticed."""
        self._task = asyncio.get_running_loop().create_task(self._look(_modified_at()))

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, known: dict[str, int]) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = await asyncio.to_thread(_modified_at)
            changed = [path for path, at in found.items() if known.get(path) != at]
            known |= found  # what is gone may be about to be replaced
            if not changed:
                continue
            fault = await asyncio.to_thread(_fault)
            if not fault:
                _begin_anew(changed)
            log.error("the change cannot be loaded; what was loaded before serves on:\n%s", fault)


def _modified_at() -> dict[str, int]:
    """When each file of the program was changed: those in the folders of what is loaded, libraries apart."""
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
    """Why the program's files cannot be loaded, as Python says it; empty where they can."""
    command = [sys.executable, "-c", _TRIAL.format(path=sys.path)]
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


def _begin_anew(changed: list[str]) -> None:
    """Become the program as it is started; requests in flight are dropped."""
    log.info("%s changed: starting again", ", ".join(changed))
    logging.shutdown()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
