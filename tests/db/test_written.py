"""The number of a commit marker, and the tokens that are made of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.errors import ConnectionLost, StatementFailed
from db.work import commit_marker
from db.work.commit_marker import delete_old_markers
from db.written import KEPT_S, WriteTokens, Written, marker_text
from tests.fixtures.backends import GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.service.model import create_shelf

KEY, OTHER = "k" * 32, "o" * 32
WRITE = Written("0f" * 16, 7, 1_700_000_000.0)

through_every_driver = pytest.mark.parametrize(
    "backend", ["postgresql", *GREENLETS, "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
)


class TestTokens:
    def test_a_token_is_read_as_what_it_was_made_of(self):
        tokens = WriteTokens(KEY)

        assert tokens.read(tokens.token_of(WRITE)) == WRITE

    @pytest.mark.parametrize("at", range(56))
    def test_one_in_which_a_character_was_changed_is_none(self, at: int):
        tokens = WriteTokens(KEY)
        token = tokens.token_of(WRITE)
        other = "A" if token[at] != "A" else "B"

        assert tokens.read(token[:at] + other + token[at + 1 :]) is None

    @pytest.mark.parametrize("token", ["", "x", "A" * 56, "A" * 57, "ä" * 56, "=" * 56, "\n" * 56])
    def test_what_is_none_at_all_is_none(self, token: str):
        assert WriteTokens(KEY).read(token) is None

    def test_a_key_that_was_replaced_is_taken_as_long_as_it_is_named(self):
        old, both = WriteTokens(OTHER), WriteTokens(f"{KEY} {OTHER}")

        assert both.read(old.token_of(WRITE)) == WRITE
        assert WriteTokens(KEY).read(both.token_of(WRITE)) == WRITE
        assert WriteTokens(KEY).read(old.token_of(WRITE)) is None

    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            (None, False),
            (marker_text(1, "m" * 10)[:11] + f"{8:011}" + "m" * 10, False),
            (f"{7:011}{1:011}{'m' * 10}", True),
            (f"{9:011}{7:011}{'m' * 10}", True),
            (f"{6:011}{1:011}{'m' * 10}", False),
            (f"{9:011}{8:011}{'m' * 10}", False),
            (f"-{8:010}{1:011}{'m' * 10}", True),
            (f"-{6:010}{1:011}{'m' * 10}", False),
            (f"-{1:010}{'9' * 11}{'0' * 10}", False),
        ],
        ids=["no row", "behind", "it", "later", "earlier", "new row", "closed", "closed earlier", "asked"],
    )
    def test_a_row_shows_what_lies_between_its_first_transaction_and_its_last(
        self, text: str | None, seen: bool
    ):
        assert WRITE.is_in(text) is seen

    def test_a_token_is_old_before_its_row_may_be_deleted(self):
        now = time.time()

        assert not WRITE._replace(at=now - KEPT_S + 60).is_old
        assert WRITE._replace(at=now - KEPT_S - 60).is_old
        assert KEPT_S < 86_400

    @pytest.mark.parametrize("key", ["", " ", "short", f"{KEY} short"])
    def test_a_key_that_could_be_guessed_stops_the_start(self, key: str):
        with pytest.raises(ValueError, match="openssl rand"):
            DatabaseSettings(url="postgresql://x/y", write_token_key=key)

    def test_a_token_without_commit_markers_stops_the_start(self):
        with pytest.raises(ValueError, match="commit_witness"):
            DatabaseSettings(url="postgresql://x/y", write_token_key=KEY, commit_witness=False)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_marker_is_deleted_when_it_is_a_day_old_by_the_clock_that_it_was_written_by(
    database: Database, sql: RawSql, monkeypatch: pytest.MonkeyPatch
):
    """The server's. By that of an instance that is fast, a write would be told lost: its token is young."""
    for name, age in (("young", "23 hours 59 minutes"), ("old", "24 hours 1 minute")):
        sql(
            "INSERT INTO commit_witness (connection, transaction, update_time)"
            f" VALUES ('{name}', '', now() - interval '{age}')"
        )
    fast = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(commit_marker, "utc_now", lambda: fast, raising=False)

    deleted = database.run_in_transaction(delete_old_markers)

    assert deleted == 1
    assert "young" in [row["connection"] for row in sql("SELECT connection FROM commit_witness")]
    assert "old" not in [row["connection"] for row in sql("SELECT connection FROM commit_witness")]


@through_every_driver
@pytest.mark.gen_test
@pytest.mark.usefixtures("shelves")
class TestTheMarkersNumber:
    @pytest.fixture
    def sql(self, database_url: str) -> RawSql:
        """Past the proxy."""
        return RawSql(database_url)

    @pytest.fixture
    def proxy(self, make_proxy: MakeProxy, postgres_cluster: PostgresCluster) -> Proxy:
        """What stands between the service and its database."""
        return make_proxy(("127.0.0.1", postgres_cluster.port))

    @pytest.fixture
    def database_settings(
        self, database_url: str, proxy: Proxy, postgres_cluster: PostgresCluster
    ) -> DatabaseSettings:
        """The test's database, with one connection."""
        through = database_url.replace(f":{postgres_cluster.port}/", f":{proxy.port}/")
        return DatabaseSettings(url=through, pool_size=1, pool_ping_after_s=0, write_token_key=KEY)

    async def test_it_grows_with_each_commit_of_a_connection(self, database: Database, sql: RawSql):
        written = [await write(database, name) for name in "abc"]

        (row,) = sql("SELECT * FROM commit_witness")
        assert [each.number for each in written] == [1, 2, 3]
        assert {each.row for each in written} == {row["connection"]}
        assert [each.is_in(row["transaction"]) for each in written] == [True] * 3

    async def test_a_commit_that_is_refused_takes_none(self, database: Database, sql: RawSql):
        """The next COMMIT of the connection is none that does not follow."""
        sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.name = 'no' THEN RAISE 'no'; END IF; RETURN NULL; END $$"
        )
        sql(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shelves DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        first = await write(database, "a")
        with pytest.raises(StatementFailed):
            await write(database, "no")
        second = await write(database, "b")

        assert (second.row, second.number) == (first.row, first.number + 1)
        assert second.is_in(text_of(sql, second))

    async def test_what_a_failover_has_lost_is_not_covered_by_what_follows(
        self, database: Database, sql: RawSql, expect_log: ExpectLog
    ):
        """A pooler's connection outlives a failover, after which the row is where the new primary has it."""
        survived = await write(database, "a")
        then = text_of(sql, survived)
        lost = await write(database, "b")
        sql("UPDATE commit_witness SET transaction = :then", then=then)

        with expect_log("onfinish.db", "has lost a transaction"), pytest.raises(ConnectionLost):
            await write(database, "c")
        again = await write(database, "c")

        assert survived.is_in(text_of(sql, survived))
        assert not lost.is_in(text_of(sql, lost))
        assert again.row != lost.row
        assert again.is_in(text_of(sql, again))
        assert [row["name"] for row in sql("SELECT name FROM shelves ORDER BY id")] == ["a", "b", "c"]

    async def test_a_row_that_a_failover_has_lost_as_a_whole_covers_nothing_either(
        self, database: Database, sql: RawSql
    ):
        lost = await write(database, "a")
        sql("DELETE FROM commit_witness")
        again = await write(database, "b")

        assert again.row == lost.row
        assert not lost.is_in(text_of(sql, lost))
        assert again.is_in(text_of(sql, again))

    @pytest.mark.parametrize("delivered", [True, False])
    async def test_a_commit_in_doubt_ends_the_row(
        self, database: Database, sql: RawSql, proxy: Proxy, expect_log: ExpectLog, delivered: bool
    ):
        """What it was is told by its token, and the next transaction has a row of its own."""
        before = await write(database, "a")
        unit = database.unit_of_work()
        await unit.run(create_shelf, unit.session, name="b")
        proxy.cut_at(b"COMMIT", delivered=delivered)
        with expect_log("onfinish.db", "was applied" if delivered else "was not applied"):
            if delivered:
                await unit.settle(keep=True)
            else:
                with pytest.raises(ConnectionLost):
                    await unit.settle(keep=True)
        after = await write(database, "c")

        doubted = unit.written
        assert (doubted is not None) is delivered
        if doubted is not None:
            assert (doubted.row, doubted.number) == (before.row, 2)
            assert doubted.is_in(text_of(sql, doubted))
        assert before.is_in(text_of(sql, before)), "also where the row is closed to what is on its way"
        assert (after.row != before.row, after.number) == (True, 1)

    async def test_work_that_wrote_nothing_has_none(self, database: Database):
        async with database.unit_of_work() as unit:
            await unit.run(select_one, unit.session)

        assert unit.written is None


def select_one(session: Session) -> Any:
    """Read."""
    return session.scalar(text("SELECT 1"))


async def write(database: Database, name: str) -> Written:
    """Create a shelf; the transaction."""
    async with database.unit_of_work() as unit:
        await unit.run(create_shelf, unit.session, name=name)
    assert unit.written is not None
    return unit.written


def text_of(sql: RawSql, written: Written) -> str | None:
    """What the row of a transaction has now."""
    rows = sql("SELECT transaction FROM commit_witness WHERE connection = :row", row=written.row)
    return rows[0]["transaction"] if rows else None
