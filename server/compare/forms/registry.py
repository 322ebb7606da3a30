"""The session is in a registry, keyed by a context variable."""

from __future__ import annotations

from sqlalchemy import func, select

from db.board.tasks import NewTask, Task
from db.scope.registry import Registry
from handlers.board.requests import TaskNew
from handlers.json_api.body import read_body
from handlers.scoped import ScopedHandler

requests = Registry()
sessions = requests.sessions  # and at the start of the program: sessions.configure(bind=engine)


def count_tasks(*, bundle: str) -> int:
    return sessions.scalars(select(func.count()).where(Task.bundle == bundle)).one()


def number_task(*, new: NewTask) -> int:
    sessions.add(Task(**new))
    sessions.flush()
    return count_tasks(bundle=new["bundle"])


class NumberHandler(ScopedHandler):
    scope = requests

    async def post(self) -> None:
        new = (await read_body(self, TaskNew)).new()
        number = await self.run(number_task, new=new)
        self.write_json({"number": number}, 201)
