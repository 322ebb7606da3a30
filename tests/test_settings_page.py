"""docs/settings.md has its settings as the models have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from conf import Settings
from conf.names import names
from tests.documents import DOCS

PAGE = (DOCS / "settings.md").read_text()


def settings_table(paths: Sequence[str]) -> str:
    """The page's table of settings, made from the models."""
    rows = ["| setting | flag | variable | default | |", "|---|---|---|---|---|"]
    for path in paths:
        name = names()[path]
        value: Any = Settings()
        for part in path.split("."):
            value = getattr(value, part)
        value = value.get_secret_value() if path == "database.url" else value
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        rows.append(
            f"| `{path}` | `{name.flag}` | `{name.variable}` | `{shown}` | {name.field.description} |"
        )
    return "\n".join(rows)


def test_the_table_of_settings_is_what_the_models_say():
    """Flag, variable, default and description of each setting that is listed."""
    [table] = re.findall(r"^\| setting \|.*?(?=\n\n)", PAGE, re.DOTALL | re.MULTILINE)
    paths = re.findall(r"^\| `([a-z_.]+)`", table, re.MULTILINE)

    assert len(paths) >= 10
    assert table == settings_table(paths)
