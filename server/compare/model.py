"""The comparison's own model: one table, and the functions that every scope calls.

They are written in the explicit form, the session first. Under another scope the same functions are called
without it, and `Scope.bind` finds the session.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from db.errors import NotFound

TEXT_CHARS_MAX = 200


class Base(DeclarativeBase):
    """The declarative base of the comparison, apart from an application's. Lives as long as the process."""


class Entry(Base):
    """A row of ``entries``, known by its text. Lives as long as the session that loaded it."""

    __tablename__ = "entries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=lambda: uuid.uuid4().hex)
    text: Mapped[str] = mapped_column(String(TEXT_CHARS_MAX))


def add_entry(session: Session, *, text: str) -> None:
    """Add an entry. Sends no SQL, so it may be called on the event loop; the row goes out with the commit."""
    session.add(Entry(text=text))


def create_entry(session: Session, *, text: str) -> Entry:
    """Add an entry and flush."""
    entry = Entry(text=text)
    session.add(entry)
    session.flush()
    return entry


def get_entry(session: Session, *, entry_id: str) -> Entry:
    """One entry.

    Raises:
        NotFound: no such entry. The session stays usable.
    """
    entry = session.get(Entry, entry_id)
    if entry is None:
        raise NotFound("entry", entry_id)
    return entry


def list_entries(session: Session) -> Sequence[Entry]:
    """All entries that the transaction sees."""
    return session.scalars(select(Entry)).all()
