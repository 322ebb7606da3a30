"""The command line on a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from tests.server.test_cli import environment


def on_a_terminal(
    *arguments: str, typed: str = "", cwd: Path | None = None, status: int = 0, **variables: str
) -> str:
    """Run the command line on a terminal of 80 columns, in which something is typed; what it has shown."""
    ours, theirs = pty.openpty()
    env = environment(**variables, TERM="xterm", LINES="24")
    os.set_blocking(ours, False)
    with subprocess.Popen(["stty", "rows", "24", "cols", "80"], stdin=theirs, env=env) as sized:
        sized.wait(10)
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=cwd,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        while select.select([ours], [], [], 30)[0]:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait(30) == status
    os.close(ours)
    return shown.decode()
