"""The newest report, as a development server shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from conf.program import COMMAND
from handlers.json_api.problem import ProblemHandler
from server.compare import DEFAULT_OUT

# The report runs nothing, and loads nothing but the style of the bar; its own is inline.
_POLICY = "default-src 'none'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"

_NONE_YET = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>No comparison yet</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 }}
main {{ max-width: 74rem; margin: auto; padding: 0 1rem }} h1 {{ font-size: 1.5rem }}</style>
</head>
<body><main><h1>No comparison yet</h1>
<p>Run <code>{COMMAND} compare</code> in the folder in which the server was started (two minutes; with
<code>--quick</code> twenty seconds), and load this page again.</p></main></body></html>
"""


class ReportHandler(ProblemHandler):
    """``/compare``: the report in the folder in which the server was started."""

    async def get(self) -> None:
        """The report, or the command that makes one (404)."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _POLICY)
        try:
            report = await asyncio.get_running_loop().run_in_executor(None, Path(DEFAULT_OUT).read_bytes)
        except OSError:
            self.set_status(404)
            report = _NONE_YET.encode()
        # The bar of all pages, where there are others: `Pages.with_bar`.
        with_bar = self.settings.get("with_bar")
        self.finish(report if with_bar is None else with_bar(self.request, report, "Compare"))
