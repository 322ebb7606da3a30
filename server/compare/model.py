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

REFUSED_AT_COMMIT = "refused at commit"
"""Rows whose text begins so are refused by a constraint that is checked only at COMMIT."""


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


REFUSE_AT_COMMIT: dict[str, tuple[str, ...]] = {
    "sqlite": (
        "CREATE TABLE compare_parents (id integer PRIMARY KEY)",
        "CREATE TABLE compare_children (id integer PRIMARY KEY, "
        "parent integer REFERENCES compare_parents (id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER compare_refuse AFTER INSERT ON entries "  # noqa: S608  # a constant of ours
        f"WHEN NEW.text LIKE '{REFUSED_AT_COMMIT}%' "
        "BEGIN INSERT INTO compare_children (parent) VALUES (0); END",
    ),
    "postgresql": (
        "CREATE FUNCTION compare_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.text LIKE '{REFUSED_AT_COMMIT}%%' THEN RAISE EXCEPTION 'refused' "
        "USING ERRCODE = '23514', CONSTRAINT = 'compare_refuse'; END IF; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER compare_refuse AFTER INSERT ON entries "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION compare_refuse()",
    ),
}
"""A constraint that is checked only at COMMIT, as each database has it."""
