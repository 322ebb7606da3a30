"""Large request bodies of a process: how many bytes it holds, and how many are handled at once."""

from __future__ import annotations

from tornado.web import RequestHandler

from db.capacity.limiter import AdmissionLimiter
from db.capacity.slot import Slot
from handlers.json_api.body import BODY_BYTES_ON_LOOP

LARGE_BYTES = BODY_BYTES_ON_LOOP
"""Only larger ones are counted: this is a thousandth of 64 MiB."""

_LARGEST_AT_ONCE = 8
"""How many bodies of the largest size may be held at once. Tornado holds each twice when it is complete."""

_TURN_S = 10.0
"""How long a request with a large body waits for its turn; a bulk of 10,000 tasks takes about a second."""


class Bodies:
    """The large bodies that a process holds, by connection. Lives as long as its server."""

    def __init__(self, body_max_bytes: int) -> None:
        self._free_bytes = _LARGEST_AT_ONCE * body_max_bytes
        self._held: dict[object, int] = {}
        self._limiters: dict[type[RequestHandler], AdmissionLimiter] = {}
        self._slots: dict[object, Slot] = {}

    def hold(self, connection: object, size: int) -> bool:
        """Count a part of a connection's body. Returns whether there is room for it."""
        self._held[connection] = self._held.get(connection, 0) + size
        self._free_bytes -= size
        return self._free_bytes >= 0

    async def turn(self, connection: object, handler: type[RequestHandler], at_once: int) -> None:
        """Wait until fewer than ``at_once`` others of a handler are being handled.

        Raises:
            PoolTimeout: that took too long.
        """
        limiter = self._limiters.get(handler)
        if limiter is None:
            limiter = self._limiters[handler] = AdmissionLimiter(at_once, name="large bodies of this path")
        self._slots[connection] = await limiter.acquire(_TURN_S)

    def release(self, connection: object) -> None:
        """Release what a connection's request holds: it is over."""
        self._free_bytes += self._held.pop(connection, 0)
        if (slot := self._slots.pop(connection, None)) is not None:
            slot.release()
