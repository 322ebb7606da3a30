"""The command that serves."""

from __future__ import annotations

import argparse
import gc

from conf import Settings
from server.commands._backend import backend_of

SUMMARY = "serve until SIGTERM, SIGINT or SIGHUP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own: all options of serving are settings."""


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Serve. Returns 0 when every request in flight was answered, 1 when ``http.drain_s`` ran out first."""
    from server.processes.event_loop import check_event_loop
    from server.processes.lifecycle import serve
    from server.processes.supervisor import serve_in_processes
    from server.processes.unhandled import log_unhandled

    gc.freeze()  # what was imported lives as long as the process
    log_unhandled()
    backend_of(settings)  # a database that is not supported is reported like any other wrong setting
    check_event_loop(settings)
    return serve(settings) if settings.http.processes == 1 else serve_in_processes(settings)
