"""A page that shows which books are lent, while they are."""

from typing import ClassVar

from handlers import SessionHandler, SessionWebSocketHandler
from tests.examples.library.db.loans import list_lent


class LivePage(SessionHandler):
    async def get(self) -> None:
        await self.render("live.html", lent=await self.run(list_lent, self.session))


class LiveSocket(SessionWebSocketHandler):
    """Sends that something has changed; a client asks by a message for what is lent."""

    read_only = True
    open_ones: ClassVar[set["LiveSocket"]] = set()

    def open(self) -> None:
        self.open_ones.add(self)

    def on_close(self) -> None:
        self.open_ones.discard(self)

    async def handle_message(self, message: str | bytes) -> None:
        self.write_message({"lent": await self.run(list_lent, self.session)})


async def announce() -> None:
    """Given to `on_commit`: `async`, since it writes to sockets. Those of this process alone."""
    for each in LiveSocket.open_ones:
        each.write_message({"changed": True})
