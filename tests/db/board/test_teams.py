"""Teams: the model functions, on real databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from db import Database
from db.board import tasks, teams
from db.errors import Conflict, Invalid, NotFound
from tests.fixtures.board.rows import add_task, add_team, load_task, new_task, overlapped
from tests.fixtures.databases import RawSql


def test_a_team_that_was_created_is_found(database: Database):
    with database.session_scope() as session:
        made = teams.create_team(session, name="Qualität 🚀")

    with database.session_scope(read_only=True) as session:
        found = teams.get_team(session, team_id=made.id)

        assert found.name == "Qualität 🚀"
        assert abs(datetime.now(UTC) - found.create_time) < timedelta(minutes=1)


def test_a_name_that_is_taken_is_refused_by_the_database(database: Database, sql: RawSql):
    """The refusal says so in words, and nothing of the transaction is kept."""
    add_team(database, "a")

    def create_two() -> None:
        with database.session_scope() as session:
            teams.create_team(session, name="b")
            teams.create_team(session, name="a")

    with pytest.raises(Conflict, match="a team with this name exists already"):
        create_two()

    assert sql("SELECT name FROM teams") == [{"name": "a"}]


def test_of_two_teams_with_one_name_created_at_once_one_is_refused(database: Database):
    with pytest.raises(Conflict, match="a team with this name exists already"):
        overlapped(
            database,
            lambda session: teams.create_team(session, name="a"),
            lambda session: teams.create_team(session, name="a"),
        )


def test_what_is_not_there_is_not_found(database: Database):
    """Each function says so, and the session stays usable."""
    with database.session_scope() as session:
        assert teams.find_team(session, team_id=7) is None
        with pytest.raises(NotFound, match="no team 7"):
            teams.get_team(session, team_id=7)
        with pytest.raises(NotFound):
            teams.update_team(session, team_id=7, name="a")
        with pytest.raises(NotFound):
            teams.delete_team(session, team_id=7)

        assert teams.list_teams(session) == []


def test_the_list_is_oldest_first(database: Database):
    for name in "cab":
        add_team(database, name)

    with database.session_scope(read_only=True) as session:
        assert [team.name for team in teams.list_teams(session)] == ["c", "a", "b"]


def test_a_team_is_renamed(database: Database, sql: RawSql):
    team_id = add_team(database, "a")

    with database.session_scope() as session:
        teams.update_team(session, team_id=team_id, name="b")
        assert teams.update_team(session, team_id=team_id).name == "b"  # nothing to change

    assert sql("SELECT name FROM teams") == [{"name": "b"}]


def test_a_rename_to_a_name_that_is_taken_is_refused(database: Database):
    add_team(database, "a")
    team_id = add_team(database, "b")

    with (
        pytest.raises(Conflict, match="a team with this name exists already"),
        database.session_scope() as session,
    ):
        teams.update_team(session, team_id=team_id, name="a")


def test_a_team_without_tasks_goes_and_its_number_is_not_used_again(database: Database):
    """Transfers name teams by number, also those that are gone."""
    team_id = add_team(database, "a")

    with database.session_scope() as session:
        teams.delete_team(session, team_id=team_id)

    assert add_team(database, "a") > team_id


def test_a_team_with_tasks_stays(database: Database, sql: RawSql):
    """The refusal leaves the session usable."""
    team_id = add_team(database, "a")
    add_task(database, team_id=team_id)

    with database.session_scope() as session, pytest.raises(Conflict, match="team still has tasks: transfer"):
        teams.delete_team(session, team_id=team_id)

    assert sql("SELECT id FROM teams") == [{"id": team_id}]


def test_a_team_is_not_deleted_under_a_task_that_is_just_being_created(database: Database):
    """The delete waits for the other transaction, and then sees its task."""
    team_id = add_team(database, "a")

    with pytest.raises(Conflict, match="team still has tasks: transfer"):
        overlapped(
            database,
            lambda session: tasks.create_task(session, new=new_task(team_id=team_id)),
            lambda session: teams.delete_team(session, team_id=team_id),
        )


def test_a_task_is_not_created_in_a_team_that_is_just_being_deleted(database: Database):
    """The create waits for the other transaction, and then finds no team: the same answer as later."""
    team_id = add_team(database, "a")

    with pytest.raises(Invalid) as refused:
        overlapped(
            database,
            lambda session: teams.delete_team(session, team_id=team_id),
            lambda session: tasks.create_task(session, new=new_task(team_id=team_id)),
        )

    assert refused.value.pointer == "/team_id"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_transfer_into_a_team_does_not_hold_up_another(database: Database):
    """Only a delete conflicts with rows that refer to the team. SQLite has one writer at a time anyway."""
    team_id = add_team(database, "a")
    with database.session_scope() as session, ThreadPoolExecutor(1) as thread:
        tasks.create_task(session, new=new_task(team_id=team_id))
        task_id = thread.submit(add_task, database, team_id=team_id).result(timeout=5)

    assert load_task(database, task_id).team_id == team_id


def test_a_team_that_tasks_name_cannot_be_deleted_behind_its_functions_back(database: Database, sql: RawSql):
    """By the foreign key itself, where SQL of another origin passes by `delete_team`."""
    add_task(database, team_id=add_team(database, "a"))

    with pytest.raises(Conflict), database.session_scope() as session:
        session.execute(text("DELETE FROM teams"))
    assert len(sql("SELECT * FROM teams")) == 1
