"""Members, and where they have logged in."""

import hashlib
import os
import secrets

from sqlalchemy import ForeignKey, LargeBinary, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId, refusals
from tests.examples.library.db.base import Base


class Member(Base):
    __tablename__ = "library_members"
    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    salt: Mapped[bytes] = mapped_column(LargeBinary(16))
    password: Mapped[bytes] = mapped_column(LargeBinary(64))


class Login(Base):
    """A browser that is logged in. A row has a hash of the cookie, so a copy of it is no log-in."""

    __tablename__ = "library_logins"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    member_id: Mapped[int] = mapped_column(SerialId, ForeignKey("library_members.id"), index=True)


TAKEN = "a member has this name already"
refusals.update({"uq_library_members_name": TAKEN, "library_members.name": TAKEN})


def password_hash(password: str, salt: bytes) -> bytes:
    """Takes 50 ms of CPU: not for the event loop, nor for a model function, which may run there."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def create_member(session: Session, *, name: str, password: str) -> Member:
    salt = os.urandom(16)
    session.add(member := Member(name=name, salt=salt, password=password_hash(password, salt)))
    session.flush()
    return member


def find_member(session: Session, *, name: str) -> Member | None:
    return session.scalars(select(Member).where(Member.name == name)).one_or_none()


def log_in(session: Session, *, member_id: int) -> str:
    """Returns the cookie's value."""
    token = secrets.token_urlsafe()
    session.add(Login(token_hash=_hash_of(token), member_id=member_id))
    return token


def find_logged_in(session: Session, *, token: str) -> Member | None:
    statement = select(Member).join(Login).where(Login.token_hash == _hash_of(token))
    return session.scalars(statement).one_or_none()


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
