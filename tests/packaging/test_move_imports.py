"""The build points imports of the four packages at `onfinish`, and changes nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from setup import PACKAGES, move_imports

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from db import Database", "from onfinish.db import Database"),
        ("from db.errors import Conflict as C", "from onfinish.db.errors import Conflict as C"),
        ("from conf.names import *", "from onfinish.conf.names import *"),
        ("import db.errors as errors", "import onfinish.db.errors as errors"),
        ("import db as database", "import onfinish.db as database"),
        ("from  db . errors import x", "from  onfinish.db . errors import x"),
        ("from \\\n    db import x", "from \\\n    onfinish.db import x"),
        ("from db import (\n    a,  # why\n    b,\n)", "from onfinish.db import (\n    a,  # why\n    b,\n)"),
        ("x = 1; from db import y; z = 2", "x = 1; from onfinish.db import y; z = 2"),
        ("'é'; from db import y", "'é'; from onfinish.db import y"),  # positions count bytes
    ],
)
def test_an_import_points_at_the_package_below_onfinish(source: str, expected: str):
    assert move_imports(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import db", "import onfinish.db; from onfinish import db"),
        ("import db.errors", "import onfinish.db.errors; from onfinish import db"),
        (
            "import db.errors  # noqa: F401",
            "import onfinish.db.errors; from onfinish import db  # noqa: F401",
        ),
        ("import os, db.a, db.b", "import os, onfinish.db.a, onfinish.db.b; from onfinish import db"),
        ("import db.a as a, conf.b", "import onfinish.db.a as a, onfinish.conf.b; from onfinish import conf"),
        (
            "import db.a, \\\n    conf",
            "import onfinish.db.a, \\\n    onfinish.conf; from onfinish import db, conf",
        ),
        ("if x: import db.a", "if x: import onfinish.db.a; from onfinish import db"),
    ],
)
def test_an_import_that_binds_a_package_binds_it_afterwards(source: str, expected: str):
    """``import db.errors`` is followed by ``db.errors.…``."""
    assert move_imports(source) == expected


def test_imports_are_found_wherever_they_stand():
    source = dedent("""
        from __future__ import annotations
        try:
            from db import fast
        except ImportError:
            fast = None
        if TYPE_CHECKING:
            from handlers import SessionHandler
        class C:
            import conf.names
            async def f(self):
                async with lock:
                    from server.cli import main
    """)

    moved = move_imports(source)

    assert re.findall(r"onfinish\S*", moved) == [
        "onfinish.db",
        "onfinish.handlers",
        "onfinish.conf.names;",
        "onfinish",
        "onfinish.server.cli",
    ]
    ast.parse(moved)


@pytest.mark.parametrize(
    "source",
    [
        "from . import db",
        "from .db import x",
        "from ..server.cli import main",
        "import dbm, configparser, serverless, x.db",
        "from database import db",
        "from tests.db import x",
        "import onfinish.db; from onfinish import db",
        '"""import db\nfrom db import x"""\n',
        "x = 'from db import y'  # import db",
        "db.errors.Conflict()",
    ],
)
def test_nothing_else_changes(source: str):
    """Relative imports, names that only begin like the four, strings and comments."""
    assert move_imports(source) == source


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_endings_stay(newline: str):
    source = newline.join(["import db", "", "from conf import x", ""])

    assert move_imports(source) == newline.join(
        ["import onfinish.db; from onfinish import db", "", "from onfinish.conf import x", ""]
    )


def test_every_module_keeps_its_lines_and_all_but_its_imports():
    """A traceback of an installed module fits the tree."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            moved = move_imports(source)

            changed = [
                (old, new)
                for old, new in zip(source.split("\n"), moved.split("\n"), strict=True)
                if old != new
            ]
            assert all(re.match(r"\s*(from|import) ", old) for old, _ in changed), path
            assert move_imports(moved) == moved, path


def test_what_is_moved_runs_as_before(tmp_path):
    """Under their new name the modules find each other, and what an import binds."""
    tree = {
        "db/__init__.py": "from db.errors import Gone\n",
        "db/errors.py": "class Gone(Exception):\n    pass\n",
        "conf/__init__.py": "",
        "conf/names.py": "import db.errors\nKIND = db.errors.Gone\n"
        "def name():\n    import db\n    return db.Gone\n",
    }
    for name, source in tree.items():
        path = tmp_path / "onfinish" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(move_imports(source))
    (tmp_path / "onfinish" / "__init__.py").touch()
    program = "from onfinish.conf.names import KIND, name; print(name() is KIND, KIND.__module__)"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True
    )

    assert done.stdout == "True onfinish.db.errors\n", done.stderr
