"""Idempotency keys: the first kept answer to a request, to be given again.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Index,
    SmallInteger,
    String,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.util import EMPTY_DICT

from db.backend import HOMES
from db.base import Json, KernelBase, UtcDateTime, now, utc_now
from db.errors import Conflict, Invalid
from db.portable.inserting import insert_unless_there
from db.portable.types import LONG_BYTES, key_text
from db.work.commit_marker import CommitMarker, use_marker

KEPT_FOR = timedelta(hours=24)
KEY_CHARS_MAX = 255
PATH_CHARS_MAX = 480
_PATH = key_text(512, PATH_CHARS_MAX)

_DELETED_AT_ONCE = 1000
"""Rows a purge takes in one transaction, so that its locks are held for a short time only."""


class IdempotencyKey(KernelBase):
    """A row of ``idempotency_keys``: a key that a client chose, and the answer it got. Kept for 24 hours."""

    __tablename__ = "idempotency_keys"

    method: Mapped[str] = mapped_column(String(16), primary_key=True)
    path: Mapped[str] = mapped_column(_PATH, primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_CHARS_MAX), primary_key=True)
    """As the client sent it; of a caller with a principal, what `Key.of` makes of the two."""
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, str] | None] = mapped_column(Json)
    body: Mapped[bytes | None] = mapped_column(LONG_BYTES)
    attempt: Mapped[str | None] = mapped_column(String(32))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())

    __table_args__ = (Index(None, "create_time"),)


class Key(NamedTuple):
    """A client's key, which counts for one method, path and caller."""

    method: str
    path: str
    key: str

    @classmethod
    def of(cls, method: str, path: str, key: str, *, principal: str = "") -> Key:
        """The key for any path: of one that is too long for its column the end is told by its hash.

        Args:
            principal: the caller, as text; "" where callers are not told apart.
        """
        if principal:
            # A column of its own would have to be part of the primary key, which is as long as InnoDB allows.
            # A client's key has no line break and no space in front: none is taken for another's.
            told = f"{key}\n{principal}".encode(errors="surrogatepass")
            key = " " + hashlib.sha256(told).hexdigest()
        if len(path) > PATH_CHARS_MAX:
            path = path[: PATH_CHARS_MAX - 65] + "#" + hashlib.sha256(path.encode()).hexdigest()
        return cls(method, path, key)


@dataclass(frozen=True)
class Answer:
    """An answer as it was given, to be given again byte for byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def claim_key(session: Session, *, key: Key, request_body: bytes, query: str = "") -> Answer | None:
    """Take a key for this transaction, or find the answer that it stands for.

    The content type is no part of what tells requests apart: a proxy may word it anew, and where the bytes of
    the body are the same, so is the request.

    A twin that is under way is waited for: it holds the row until it has ended. If it is undone, the
    key is free again.

    Returns:
        None where the key is the caller's now, which ends with `keep_answer`.

    Raises:
        Invalid: the key was used with another body or query. The session stays usable.
        Conflict: it was used, and its answer was not kept. The session stays usable.
    """
    fingerprint, at_home = _fingerprint(request_body, query), _at_home(session)
    if _insert(session, key, fingerprint, at_home):
        return None
    row = session.execute(_of(key), execution_options=at_home).scalar_one_or_none()
    if row is not None and row.create_time < utc_now() - KEPT_FOR:
        expired = IdempotencyKey.create_time == row.create_time
        session.execute(delete(IdempotencyKey).where(*_is(key), expired), execution_options=at_home)
        row = None
    if row is None:  # it had expired, or a purge took it in this moment
        if _insert(session, key, fingerprint, at_home):
            return None
        row = session.execute(_of(key), execution_options=at_home).scalar_one()
    if row.fingerprint != fingerprint:
        raise Invalid("this Idempotency-Key was used with another body or query")
    if row.status is None or row.body is None:
        raise Conflict("the request with this Idempotency-Key was applied, but its answer was not kept")
    return Answer(row.status, row.headers or {}, row.body)


def keep_answer(session: Session, *, key: Key, answer: Answer) -> None:
    """Write the answer beside the key, in the transaction that did the work.

    Where the answer to COMMIT is lost, the row tells whether this attempt was committed, or another of the
    same request: each leaves a mark of its own.
    """
    attempt, at_home = uuid.uuid4().hex, _at_home(session)
    kept = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body, "attempt": attempt}
    write = update(IdempotencyKey).where(*_is(key)).values(kept)
    session.execute(write, execution_options={**at_home, "synchronize_session": False})
    use_marker(session, CommitMarker(attempt, functools.partial(_attempt_of, key, at_home)))


def touch_key(session: Session, *, key: Key) -> None:
    """Write a key's row as it is, so that this transaction, which follows the answer's, has a marker."""
    as_it_is = update(IdempotencyKey).where(*_is(key)).values(attempt=IdempotencyKey.attempt)
    session.execute(as_it_is, execution_options={**_at_home(session), "synchronize_session": False})


def delete_expired_keys(session: Session, *, at_most: int = _DELETED_AT_ONCE) -> int:
    """Delete keys older than 24 hours.

    Returns:
        How many were deleted: ``at_most`` where there may be more.
    """
    is_expired = IdempotencyKey.create_time < utc_now() - KEPT_FOR
    expired = (
        select(IdempotencyKey.method, IdempotencyKey.path, IdempotencyKey.key)
        .where(is_expired)
        .limit(at_most)
    )
    found = [
        dict(zip(("of_method", "of_path", "of_key"), row, strict=True)) for row in session.execute(expired)
    ]
    if found:  # one statement for all, past the ORM: ten times as fast, and others wait so much less
        # Asked for its age again: a request may have taken the key anew meanwhile.
        one = delete(IdempotencyKey).where(
            IdempotencyKey.method == bindparam("of_method"),
            IdempotencyKey.path == bindparam("of_path"),
            IdempotencyKey.key == bindparam("of_key"),
            is_expired,
        )
        session.connection().execute(one, found)
    return len(found)


def _at_home(session: Session) -> Mapping[str, Any]:
    """Execution options that find the table where it is, wherever else the transaction looks for tables."""
    schema = session.connection().info.get(HOMES, {}).get(IdempotencyKey.__tablename__)
    return EMPTY_DICT if schema is None else {"schema_translate_map": {None: schema}}


def _insert(session: Session, key: Key, fingerprint: str, at_home: Mapping[str, Any]) -> bool:
    """Insert the key unless it is there. Waits for a transaction that has inserted it and not ended."""
    values = {**key._asdict(), "fingerprint": fingerprint, "create_time": utc_now()}
    return insert_unless_there(session, IdempotencyKey, values, at_home)


def _fingerprint(request_body: bytes, query: str) -> str:
    of_body = hashlib.sha256(request_body).hexdigest()
    return hashlib.sha256(f"{of_body}?{query}".encode()).hexdigest() if query else of_body


def _attempt_of(key: Key, at_home: Mapping[str, Any], connection: Connection) -> str | None:
    """The mark in a key's row, once the transaction that writes it has ended. Leaves nothing behind."""
    # An insert waits for a transaction that holds the row, which no query would. It is undone with the block.
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        if _insert(session, key, "", at_home):
            return None
        found = select(IdempotencyKey.attempt).where(*_is(key))
        return session.scalar(found, execution_options=at_home)


def _is(key: Key) -> tuple[Any, ...]:
    return (
        IdempotencyKey.method == key.method,
        IdempotencyKey.path == key.path,
        IdempotencyKey.key == key.key,
    )


def _of(key: Key) -> Any:
    return select(IdempotencyKey).where(*_is(key))
