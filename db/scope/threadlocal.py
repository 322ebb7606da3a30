"""The session is the thread's."""

from __future__ import annotations

from sqlalchemy.orm import Session

from db.scope.registry import Registry


class ThreadLocal(Registry):
    """``scoped_session`` as it comes, one session a thread: the control.

    Right where a request has a thread to itself. Under Tornado all requests share the loop's, and their
    work runs in the pool's.
    """

    name = "threadlocal"
    _scopefunc = None

    def enter(self, session: Session) -> None:
        self.sessions.registry.set(session)
