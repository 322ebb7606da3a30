"""Transfers: tasks that move between teams, and the log of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, column, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId, UtcDateTime, now, refusals, utc_now
from db.board.base import Base
from db.board.tasks import TaskRow, change_locked, get_task, lock_task
from db.board.teams import require_teams
from db.errors import Conflict, Invalid
from db.portable.types import NUMBERS_ONCE, chars

NOTE_CHARS_MAX = 1000


class Transfer(Base):
    """A row of ``transfers``: written once, never changed. Lives as long as the session that loaded it.

    The teams are numbers without foreign keys: the log says what was, also when a team is gone, and
    a team's number is never given out again.
    """

    __tablename__ = "transfers"
    __table_args__ = (
        # IS DISTINCT FROM came to SQLite with 3.39, which Ubuntu 22.04 has not; no team has the number 0.
        CheckConstraint("coalesce(from_team_id, 0) <> coalesce(to_team_id, 0)", name="goes_somewhere"),
        CheckConstraint(chars(column("note")) <= NOTE_CHARS_MAX, name="note"),
        Index(None, "task_id", "id"),
        NUMBERS_ONCE,
    )

    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    task_id: Mapped[str] = mapped_column(String(32), ForeignKey("tasks.id", ondelete="CASCADE"))
    from_team_id: Mapped[int | None] = mapped_column(SerialId)
    to_team_id: Mapped[int | None] = mapped_column(SerialId)
    note: Mapped[str | None] = mapped_column(String(NOTE_CHARS_MAX))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())


_GOES_NOWHERE = "a transfer goes from one team to another"

refusals.update(
    {
        "fk_transfers_task_id_tasks": "the task does not exist any more",
        "ck_transfers_goes_somewhere": _GOES_NOWHERE,
        "ck_transfers_note": f"a note has at most {NOTE_CHARS_MAX} characters",
    }
)


def transfer_task(
    session: Session,
    *,
    task_id: str,
    from_team_id: int | None,
    to_team_id: int | None,
    note: str | None = None,
) -> tuple[TaskRow, Transfer]:
    """Move a task between teams and write the audit row, in the caller's transaction.

    Flushes; never commits. Of two transfers of one task the second waits for the first, and then finds
    the task where that one put it.

    Args:
        from_team_id: where the task is; None is "with no team".
        to_team_id: where it goes; None takes it out of its team.

    Raises:
        NotFound: no such task.
        Invalid: source and target are the same, or one of them does not exist.
        Conflict: the task is not in ``from_team_id``.
        The session stays usable after each of them, and nothing has moved.
    """
    if from_team_id == to_team_id:
        raise Invalid(_GOES_NOWHERE, pointer="/to_team_id")
    task = lock_task(session, task_id=task_id)
    require_teams(session, from_team_id=from_team_id, to_team_id=to_team_id)
    if task.team_id != from_team_id:
        raise Conflict(f"the task is {_place(task.team_id)}, not {_place(from_team_id)}")
    task = change_locked(session, task, {"team_id": to_team_id})
    # One moment for both: the log's last line is the task's last change.
    transfer = Transfer(
        task_id=task_id,
        from_team_id=from_team_id,
        to_team_id=to_team_id,
        note=note,
        create_time=task.update_time,
    )
    session.add(transfer)
    session.flush()
    return task, transfer


def list_transfers(session: Session, *, task_id: str) -> Sequence[Transfer]:
    """The log of a task, oldest first.

    Raises:
        NotFound: no such task. The session stays usable.
    """
    get_task(session, task_id=task_id)
    # By number: numbers of one task are drawn under its lock, one transfer after the other.
    return session.scalars(select(Transfer).where(Transfer.task_id == task_id).order_by(Transfer.id)).all()


def _place(team_id: int | None) -> str:
    return "with no team" if team_id is None else f"in team {team_id}"
