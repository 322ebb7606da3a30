"""The one table of these tests, and the model functions their handlers run."""

from __future__ import annotations

from sqlalchemy import ForeignKey, func, select, text as sql_text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    """The base of a table that is no part of the service: the handlers under test know nothing of tasks."""


class Note(Base):
    """A line of text. Its parent has to exist, which the database checks at COMMIT and not before."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("notes.id"))
    parent: Mapped[Note | None] = relationship(remote_side="Note.id")


_TABLE = """
    CREATE TABLE notes (
        id {serial} PRIMARY KEY,
        text varchar NOT NULL CONSTRAINT uq_notes_text UNIQUE,
        parent_id integer {parent})
"""

DDL = {
    # Nothing is looked at only at COMMIT there.
    "mariadb": [
        """
        CREATE TABLE notes (
            id integer PRIMARY KEY AUTO_INCREMENT,
            text varchar(200) NOT NULL,
            parent_id integer,
            CONSTRAINT uq_notes_text UNIQUE (text),
            CONSTRAINT fk_notes_parent FOREIGN KEY (parent_id) REFERENCES notes (id)
        ) CHARSET utf8mb4 COLLATE utf8mb4_bin
        """
    ],
    "sqlite": [
        _TABLE.format(
            serial="integer",
            parent="CONSTRAINT fk_notes_parent REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED",
        )
    ],
    "postgresql": [
        _TABLE.format(serial="serial", parent=""),
        "CREATE SEQUENCE conflicts",
        """
        CREATE FUNCTION look_at_parent() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.text LIKE 'slow to commit%' THEN
                PERFORM pg_sleep(2.2);
            END IF;
            IF NEW.text LIKE 'conflicts once%' AND nextval('conflicts') = 1 THEN
                RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001';
            END IF;
            IF NEW.parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM notes WHERE id = NEW.parent_id) THEN
                RAISE EXCEPTION 'no note %, wanted by %', NEW.parent_id, NEW.text
                    USING ERRCODE = '23514', CONSTRAINT = 'ck_notes_parent';
            END IF;
            RETURN NULL;
        END $$
        """,
        """
        CREATE CONSTRAINT TRIGGER look_at_parent AFTER INSERT OR UPDATE ON notes
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look_at_parent()
        """,
    ],
}
"""The table as each database makes it, with a constraint that speaks only at COMMIT."""

NO_NOTE = 404
"""The id of no note: a child of this one is refused at COMMIT."""


def add_note(session: Session, *, text: str, parent_id: int | None = None) -> int:
    """Add a note and flush it; returns its id."""
    note = Note(text=text, parent_id=parent_id)
    session.add(note)
    session.flush()
    return note.id


def change_note(session: Session, *, text: str, to: str) -> None:
    """Give a note another text."""
    note = session.scalars(select(Note).where(Note.text == text)).one()
    note.text = to
    session.flush()


def get_note(session: Session, *, text: str) -> Note:
    """The note with this text; its parent is not loaded."""
    return session.scalars(select(Note).where(Note.text == text)).one()


def list_texts(session: Session) -> list[str]:
    """The texts of all notes, in the order of their ids."""
    return list(session.scalars(select(Note.text).order_by(Note.id)))


def count_notes(session: Session) -> int:
    """How many notes there are."""
    return session.scalars(select(func.count()).select_from(Note)).one()


def take_long(session: Session) -> None:
    """Run one statement that does not end for a minute, unless it is cancelled."""
    backend = session.get_bind().dialect.name
    if backend == "mariadb":
        session.execute(sql_text("SELECT SLEEP(60)"))
    elif backend == "sqlite":
        counting = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)"
        session.execute(sql_text(f"{counting} SELECT count(*) FROM n"))
    else:
        session.execute(sql_text("SELECT pg_sleep(60)"))
