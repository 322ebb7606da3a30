"""A disk that is full, for real: the database's tables are in a file system of a few megabytes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import db.schema.migrate
from conf import DatabaseSettings
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import UNPRIVILEGED, PostgresCluster
from tests.fixtures.server import Client

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log")]

SIZE_MIB = 24


@pytest.fixture
def small_disk(cluster: PostgresCluster) -> Iterator[Path]:
    """A file system in memory that the server may use. Making one takes the right to mount."""
    folder = cluster.folder / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=700", "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a disk cannot be made small here, which takes root: {mounted.stderr.strip()}")
    try:
        if cluster.runs_unprivileged:
            os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def database_name(cluster: PostgresCluster, small_disk: Path) -> Iterator[str]:
    """A migrated database on that disk; the server's log of transactions is elsewhere."""
    with cluster.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        cursor.execute("CREATE DATABASE small TABLESPACE small")
        db.schema.migrate.upgrade(DatabaseSettings(url=cluster.url_for("small")))
        yield "small"
        cursor.execute("DROP DATABASE small WITH (FORCE)")
        cursor.execute("DROP TABLESPACE small")


async def test_a_full_disk_is_a_503_and_reads_go_on(
    five_questions: FiveQuestions, service: Client, ledger: Ledger, sql: RawSql, small_disk: Path
):
    """53100: nothing of the refused is kept, and once there is room again writes work."""
    await five_questions.remember()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

    answers = []
    for _ in range(40):  # until the last page that the table has is full
        book_id = ledger.new_id()
        body = {**ledger.resource.new(book_id, 1), "notes": {"x": os.urandom(15_000).hex()}}
        answers.append(ledger.heard(book_id, 1, await service.post("/books", body)))
        if answers[-1].code == 503:
            break

    assert answers[-1].json()["outcome"] == "not_applied"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert (await service.get("/books?limit=1")).code == 200
    ballast.unlink()
    await five_questions.ask()
