"""A lane: an engine with its places and its threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from db.dialects import Dialect
from db.places import Places


class Lane:
    """The way to the database for one kind of work. Lives as long as its `Database`, which closes it.

    The writer and the reader are a lane each, with a pool, places and threads of its own, so that
    writers stuck behind a lock do not stop the readers. It has as many threads as places: a unit of
    work that has a place runs at once.
    """

    def __init__(self, engine: Engine, dialect: Dialect, places: Places, *, read_only: bool) -> None:
        self.engine = engine
        self.dialect = dialect
        self.places = places
        self.read_only = read_only
        self.threads = ThreadPoolExecutor(places.size, thread_name_prefix=f"onfinish-{places.name}")

    def close(self) -> None:
        """End the threads and close the connections. A thread that still works is left to its work."""
        self.threads.shutdown(wait=not self.places.taken, cancel_futures=True)
        self.engine.dispose()
