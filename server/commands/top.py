"""The command that shows in a terminal what a server is doing."""

from __future__ import annotations

import argparse
import http.client
import shutil
import sys
import time

from conf import Settings

SUMMARY = "show in a terminal what every request of a running server does now"

_TIMEOUT_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="print it once, all of it")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="look each S seconds (2)")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Show ``/-/live.txt`` of the server with these settings until Ctrl-C; once where this is no terminal."""
    port = settings.ops.port or settings.http.port
    repeats = sys.stdout.isatty() and not arguments.once
    while True:
        try:
            status, text = _look(port)
        except OSError as error:
            print(
                f"no server answers on 127.0.0.1:{port} ({error}): start it, "
                "or give its --port or --ops-port",
                file=sys.stderr,
            )
            return 1
        if status != 200:
            print(
                f"127.0.0.1:{port} answers {status}: in production the pages for operators are on ops.port; "
                "give it with --ops-port",
                file=sys.stderr,
            )
            return 1
        print(_CLEAR + _cut(text) if repeats else text, end="", flush=True)
        if not repeats:
            return 0
        time.sleep(max(0.2, arguments.every))


def _look(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/-/live.txt")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}") from error
    finally:
        connection.close()


def _cut(text: str) -> str:
    """As much as fits the terminal."""
    columns, lines = shutil.get_terminal_size()
    shown = text.splitlines()
    cut = [line[:columns] for line in shown[: lines - 1]]
    return "\n".join(cut)
