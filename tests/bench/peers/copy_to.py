"""``COPY TO`` through psycopg2, each row made to a line of JSON, without HTTP. Prints what it took."""

from __future__ import annotations

import json
import re
import time

import psycopg2

from tests.bench.peers.contract import database_url, json_text
from tests.bench.peers.floor_app import COLUMNS

_ESCAPED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r", "\\b": "\b", "\\f": "\f", "\\v": "\v"}


class Lines:
    """Takes the rows of a COPY, and makes the bytes of a page of JSON lines. Lives as long as it."""

    PAGE_SIZE = 1000

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._page: list[str] = []

    def write(self, row: bytes) -> None:
        """Take a row in COPY's text format."""
        fields: list[str | None] = [
            None if field == "\\N" else _plain(field) for field in row.decode().rstrip("\n").split("\t")
        ]
        task = dict(zip(COLUMNS, fields, strict=True))
        answer = {
            "id": task["id"],
            "task_status": int(task["task_status"] or 0),
            "s3_keys": json.loads(task["s3_keys"] or "{}"),
            "bundle": task["bundle"],
            "granularity": task["granularity"],
            "target_date": task["target_date"],
            "change_id": int(task["change_id"] or 0),
            "team_id": None if task["team_id"] is None else int(task["team_id"]),
            "version": int(task["version"] or 0),
            "create_time": _moment(task["create_time"] or ""),
            "update_time": _moment(task["update_time"] or ""),
        }
        self._page.append(f"{json_text(answer)}\n")
        self.rows += 1
        if len(self._page) == self.PAGE_SIZE:
            self.flush()

    def flush(self) -> None:
        """Make the page's bytes."""
        self.bytes += len("".join(self._page).encode())
        self._page.clear()


def _plain(field: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPED[found[0]], field) if "\\" in field else field


def _moment(text: str) -> str:
    whole, _, fraction = text.removesuffix("+00").replace(" ", "T").partition(".")
    return f"{whole}.{fraction:0<6}Z" if fraction else f"{whole}Z"


def main() -> None:
    """Read the whole table in the order of its ids."""
    connection = psycopg2.connect(database_url())
    lines = Lines()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT {', '.join(COLUMNS)} FROM tasks ORDER BY id) TO STDOUT", lines)
    lines.flush()
    took_s = time.perf_counter() - began_s
    cpu_us = (time.process_time() - cpu_s) / lines.rows * 1e6
    print(json.dumps({"per_s": lines.rows / took_s, "cpu_us": cpu_us, "bytes": lines.bytes}))
    connection.close()


if __name__ == "__main__":
    main()
