"""The kernel's own tests, against the wheel: their imports are moved as the packages' are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from setup import TOP, move_imports
from tests.packaging.conftest import ROOT, Environment

ROOMS = (
    "tests/conf",
    "tests/db/test_base.py",
    "tests/db/test_health.py",
    "tests/db/test_migrate.py",
    "tests/db/test_retry.py",
    "tests/db/test_scope.py",
    "tests/db/test_unit_of_work.py",
    "tests/examples",
    "tests/handlers/test_hooks.py",
    "tests/server/compare/test_forms.py",
    "tests/server/test_lifecycle.py",
)
"""Something of each package: settings files, migrations, every driver, servers in processes of their own."""

LEFT_OUT = {"__pycache__", "bench", "board", "packaging"}


@pytest.mark.slow
def test_the_kernels_tests_pass_against_the_wheel(environment: Environment, tmp_path: Path):
    for path in (ROOT / "tests").rglob("*"):
        part = path.relative_to(ROOT)
        if path.is_file() and not LEFT_OUT & set(part.parts):
            (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".py":
                (tmp_path / part).write_text(move_imports(path.read_text()))
            else:
                (tmp_path / part).write_bytes(path.read_bytes())
    settings = (ROOT / "setup.cfg").read_text().replace("-p server.", f"-p {TOP}.server.")
    (tmp_path / "setup.cfg").write_text(settings)  # pytest's own settings

    done = environment.run("python", "-m", "pytest", "-q", "-n", "2", *ROOMS, cwd=tmp_path, timeout_s=600)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 500
