"""What docs/sessions.md shows, run: its functions on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from db import Database
from db.errors import Conflict
from tests.examples.sessions import (
    Base,
    Squad,
    count_by_squad,
    import_in_parts,
    import_players,
    list_names,
    move_player,
    welcome,
)


@pytest.fixture
def players(database: Database) -> Database:
    """A database with two squads, and no player."""
    database.create_all(Base.metadata)
    with database.session_scope() as session:
        session.add_all([Squad(id=1, name="home"), Squad(id=2, name="guests")])
    return database


def names(database: Database) -> list[str]:
    with database.session_scope(read_only=True) as session:
        return list_names(session)


def test_a_scope_is_kept_or_undone_as_a_whole(players: Database):
    import_players(players, ["Ada", "Eve"])

    with pytest.raises(Conflict):
        import_players(players, ["Ida", "Ada"])

    assert names(players) == ["Ada", "Eve"]


def test_of_parts_those_before_the_failure_are_kept(players: Database):
    with pytest.raises(Conflict):
        import_in_parts(players, [["Ada"], ["Eve", "Ada"], ["Ida"]])

    assert names(players) == ["Ada"]


def test_a_move_is_logged_and_a_wrong_one_leaves_nothing(players: Database):
    import_players(players, ["Ada"])

    def move() -> None:
        players.run_in_transaction(move_player, player_id=1, from_squad_id=None, to_squad_id=2)

    move()
    with pytest.raises(Conflict):
        move()

    with players.session_scope(read_only=True) as session:
        assert count_by_squad(session, least=1) == [("guests", 1)]
        assert session.scalar(text("SELECT count(*) FROM moves")) == 1


@pytest.mark.gen_test
async def test_a_unit_of_work_on_the_event_loop_runs_the_same_function(players: Database):
    assert await welcome(players, name="Ada") == 1
