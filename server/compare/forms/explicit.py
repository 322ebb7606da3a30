"""The session is an argument."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.board.tasks import NewTask, Task
from handlers.base import SessionHandler
from handlers.board.requests import TaskNew
from handlers.json_api.body import read_body


def count_tasks(session: Session, *, bundle: str) -> int:
    return session.scalars(select(func.count()).where(Task.bundle == bundle)).one()


def number_task(session: Session, *, new: NewTask) -> int:
    session.add(Task(**new))
    session.flush()
    return count_tasks(session, bundle=new["bundle"])


class NumberHandler(SessionHandler):
    async def post(self) -> None:
        new = (await read_body(self, TaskNew)).new()
        number = await self.run(number_task, self.session, new=new)
        self.write_json({"number": number}, 201)
