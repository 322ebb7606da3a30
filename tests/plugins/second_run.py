"""Names the tests that passed when they ran a second time.

`scripts/test` loads it by ``-p`` for the run of the tests that failed, and prints the names at its end.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--second-run", type=Path, help="the file that the names of tests that passed go into")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    file: Path | None = config.getoption("--second-run")
    ids = {
        kind: {report.nodeid for report in terminalreporter.getreports(kind)}
        for kind in ("passed", "skipped", "failed", "error")
    }
    passed = sorted((ids["passed"] | ids["skipped"]) - ids["failed"] - ids["error"])
    if file is not None:
        file.write_text("".join(f"{name}\n" for name in passed))
    if passed:
        terminalreporter.section("tests that needed a second run")
        terminalreporter.write_line("\n".join(passed))
