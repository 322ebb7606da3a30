"""What the recipes of Sentry and OpenTelemetry watch."""

from sqlalchemy import select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


def create_note(session: Session, *, words: str) -> int:
    session.add(note := Note(text=words))
    session.flush()
    return note.id


def list_notes(session: Session) -> list[str]:
    return list(session.scalars(select(Note.text)))


def misspell(session: Session, *, words: str) -> None:
    session.execute(text("SELECT txet FROM notes WHERE text = :words"), {"words": words})
