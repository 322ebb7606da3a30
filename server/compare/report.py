"""The report: one page that needs nothing but itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tornado.template import Loader

from server.compare import findings
from server.compare.columns import ABOUT, TITLES
from server.compare.commit_time import FAULTS
from server.compare.cost import TWIN
from server.compare.verdicts import Kind


def write_report(result: dict[str, Any], path: Path) -> None:
    """Write the report. A reader meanwhile has the old one or the new one, whole.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(render(result))
    unfinished.replace(path)


def render(result: dict[str, Any]) -> bytes:
    """The report's HTML. Without matplotlib it has no plots, but the command that installs it."""
    from server.compare.plots import plots

    try:
        drawn = plots(result)
    except ModuleNotFoundError:
        drawn = {}
    loader = Loader(str(Path(__file__).parent), autoescape="xhtml_escape", whitespace="all")
    return loader.load("report.html").generate(
        result=result,
        about=result["about"],
        columns=findings.scopes_of(result),
        groups=findings.by_group(result),
        titles=TITLES,
        about_columns=ABOUT,
        tally=findings.tally(result),
        plots=drawn,
        meanings={kind.value: kind.meaning for kind in Kind},
        faults=FAULTS,
        findings=findings,
        twin=TWIN,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )
