"""An application in a process of its own, whose memory the tests limit until no thread can be started.

``python -m tests.handlers.threads_app URL`` prints its port, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading

from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler
from tests.handlers.custody import lent
from tests.handlers.notes import Note, add_note, take_long

STACK_BYTES = 256 * 2**20
"""Of each thread, reserved and not used: a limit that leaves room for everything else refuses a thread."""

DEADLINE_S = 1.0


class AddHandler(ApiHandler):
    """Adds a note, and waits for ``POST /go`` before it answers, and so before the work is committed."""

    async def post(self) -> None:
        await self.run(add_note, self.session, text=self.get_argument("text"))
        if self.get_argument("waits", ""):
            await self.settings["go"].wait()
        self.set_status(201)


class PutInHandler(ApiHandler):
    """Adds a note that is written by the commit, in the first work of the request that needs a thread."""

    async def post(self) -> None:
        self.session.add(Note(text=self.get_argument("text")))
        self.set_status(201)


class LateHandler(AddHandler):
    """The same with a deadline, and with an answer that does not heed it."""

    timeout_s = DEADLINE_S


class HoldHandler(ApiHandler):
    """Keeps a thread of the writer for some seconds."""

    async def post(self) -> None:
        await self.run(_sleep, self.session, float(self.get_argument("seconds")))


class LongHandler(ApiHandler):
    """Runs a statement that does not end."""

    timeout_s = DEADLINE_S

    async def post(self) -> None:
        await self.run(take_long, self.session)


class GoHandler(RequestHandler):
    """Lets those go on that wait for it."""

    def post(self) -> None:
        self.settings["go"].set()


class StateHandler(RequestHandler):
    """What the database has lent out, and whether a thread can be started."""

    def get(self) -> None:
        try:
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        except RuntimeError:
            starts = False
        else:
            starts = True
        self.finish({"lent": lent(self.settings["database"]), "starts": starts})


def _sleep(session: Session, seconds: float) -> None:
    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


async def serve(url: str) -> None:
    """Serve until standard input ends."""
    database = Database(DatabaseSettings(url=url, executor="threads", pool_size=4))
    application = Application(
        [
            ("/add", AddHandler),
            ("/put-in", PutInHandler),
            ("/late", LateHandler),
            ("/hold", HoldHandler),
            ("/long", LongHandler),
            ("/go", GoHandler),
            ("/state", StateHandler),
        ],
        database=database,
        go=asyncio.Event(),
    )
    server = HTTPServer(application)
    socket, port = bind_unused_port()
    server.add_socket(socket)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    print(port, flush=True)
    await ended.wait()
    asyncio.get_running_loop().remove_reader(sys.stdin)
    server.stop()
    await server.close_all_connections()
    await database.close()


if __name__ == "__main__":
    threading.stack_size(STACK_BYTES)
    asyncio.run(serve(sys.argv[1]))
