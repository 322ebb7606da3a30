"""Teams: who tasks belong to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CheckConstraint, String, column, exists, select, table
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId, UtcDateTime, now, refusals, utc_now
from db.board.base import Base
from db.errors import Conflict, Invalid, NotFound
from db.portable.types import NUMBERS_ONCE, chars

NAME_CHARS_MAX = 64


class Team(Base):
    """A row of ``teams``. Lives as long as the session that loaded it."""

    __tablename__ = "teams"
    __table_args__ = (
        CheckConstraint(chars(column("name")).between(1, NAME_CHARS_MAX), name="name"),
        # A number is never given out twice: the log of transfers names teams that are gone.
        NUMBERS_ONCE,
    )

    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), unique=True)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())


_TAKEN = "a team with this name exists already"
_HAS_TASKS = "the team still has tasks: transfer or delete them first"
_NO_SUCH_TEAM = "there is no such team"

# Not the mapped class: that module imports this one.
_TASKS = table("tasks", column("team_id"))

refusals.update(
    {
        "uq_teams_name": _TAKEN,
        "teams.name": _TAKEN,
        "ck_teams_name": f"a team's name has 1 to {NAME_CHARS_MAX} characters",
    }
)


def create_team(session: Session, *, name: str) -> Team:
    """Add a team. Flushes, so that a name that is taken is refused here.

    Raises:
        Conflict: the name is taken. The database says so, and the transaction can only be rolled back.
    """
    team = Team(name=name)
    session.add(team)
    session.flush()
    return team


def find_team(session: Session, *, team_id: int) -> Team | None:
    """The team, or None."""
    return session.get(Team, team_id)


def get_team(session: Session, *, team_id: int) -> Team:
    """The team.

    Raises:
        NotFound: no such team. The session stays usable.
    """
    team = find_team(session, team_id=team_id)
    if team is None:
        raise NotFound("team", team_id)
    return team


def list_teams(session: Session) -> Sequence[Team]:
    """Every team, oldest first."""
    return session.scalars(select(Team).order_by(Team.id)).all()


def update_team(session: Session, *, team_id: int, name: str | None = None) -> Team:
    """Rename a team; without a name, nothing changes. Flushes, so that a name that is taken is refused here.

    Raises:
        NotFound: no such team. The session stays usable.
        Conflict: the name is taken. The database says so, and the transaction can only be rolled back.
    """
    team = _lock_team(session, team_id)
    if name is not None:
        team.name = name
        session.flush()
    return team


def delete_team(session: Session, *, team_id: int) -> None:
    """Take a team away. Its number stays in the log of transfers, and is never given out again.

    Raises:
        NotFound: no such team. The session stays usable.
        Conflict: it still has tasks. The session stays usable.
    """
    # Asked under the row's lock, which keeps new tasks from naming the team meanwhile, and not left to
    # the foreign key: SQLite does not say which one refused.
    team = _lock_team(session, team_id)
    if session.scalar(select(exists().where(_TASKS.c.team_id == team_id))):
        raise Conflict(_HAS_TASKS)
    session.delete(team)
    session.flush()


def require_teams(session: Session, **fields: int | None) -> None:
    """See to it that the teams a body names exist, and go on existing until this transaction ends.

    Args:
        fields: team ids by the name of the body's field; None is "no team", and fine.

    Raises:
        Invalid: teams do not exist; with a pointer to each such field. The session stays usable.
    """
    wanted = {team_id for team_id in fields.values() if team_id is not None}
    if not wanted:
        return
    # FOR KEY SHARE is the lock that the foreign key takes anyway: it stops a delete, not a rename.
    # In the order of the ids, so that two transactions with the same two teams do not deadlock.
    statement = select(Team.id).where(Team.id.in_(wanted)).order_by(Team.id)
    found = set(session.scalars(statement.with_for_update(read=True, key_share=True)))
    missing = [
        (f"/{field}", _NO_SUCH_TEAM)
        for field, team_id in fields.items()
        if team_id is not None and team_id not in found
    ]
    if missing:
        raise Invalid(_NO_SUCH_TEAM, faults=missing)


def _lock_team(session: Session, team_id: int) -> Team:
    """The team as it stands now, not to be changed by others before this transaction ends."""
    team = session.get(Team, team_id, with_for_update=True, populate_existing=True)
    if team is None:
        raise NotFound("team", team_id)
    return team
