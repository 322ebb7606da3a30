"""Environments of the peers: each with its own packages, from the requirements in ``peers/``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def default_folder() -> Path:
    """Where environments are kept from one run to the next."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "onfinish" / "bench"


def python_of(name: str, folder: Path) -> Path:
    """The Python of an environment, which is made where it is missing or its requirements have changed.

    Raises:
        RuntimeError: pip could not install it; the message holds what it said.
    """
    requirements = PEERS / f"{name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    environment = folder / name
    python, stamp = environment / "bin" / "python", environment / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making an environment for {name} in {environment}", file=sys.stderr, flush=True)
        stamp.unlink(missing_ok=True)
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(environment)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["-r", str(requirements)]
        # Also where a user's pip.conf says --user, which a venv refuses.
        pip = subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ | {"PIP_USER": "0"}
        )
        if pip.returncode:
            raise RuntimeError(f"pip could not install {requirements}:\n{pip.stdout}{pip.stderr}")
        stamp.write_text(wanted)
    return python


def versions(name: str) -> dict[str, str]:
    """What an environment is made of, by package."""
    lines = (PEERS / f"{name}.txt").read_text().split()
    return dict(line.split("==") for line in lines)
