"""The session is in a context variable."""

from __future__ import annotations

from sqlalchemy import func, select

from db.board.tasks import NewTask, Task
from db.scope.contextvar import Contextvar, current_session
from handlers.board.requests import TaskNew
from handlers.json_api.body import read_body
from handlers.scoped import ScopedHandler


def count_tasks(*, bundle: str) -> int:
    session = current_session()
    return session.scalars(select(func.count()).where(Task.bundle == bundle)).one()


def number_task(*, new: NewTask) -> int:
    session = current_session()
    session.add(Task(**new))
    session.flush()
    return count_tasks(bundle=new["bundle"])


class NumberHandler(ScopedHandler):
    scope = Contextvar()

    async def post(self) -> None:
        new = (await read_body(self, TaskNew)).new()
        number = await self.run(number_task, new=new)
        self.write_json({"number": number}, 201)
