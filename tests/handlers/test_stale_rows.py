"""A row with a version that has changed since it was read: the request is a conflict, not a fault."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from db import Database
from db.errors import Conflict
from handlers import ApiHandler
from tests.handlers.conftest import Mount

pytestmark = pytest.mark.every_driver


class Base(DeclarativeBase):
    """A base of the application's own. Lives as long as the process."""


class Page(Base):
    """A row with a version. Lives as long as the session that loaded it."""

    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own form


def edit_a_stale_page(session: Session) -> None:
    """Leave a change to a page that was changed past the session: its next flush updates no row."""
    session.add(page := Page(text="first"))
    session.flush()
    session.execute(
        update(Page.__table__).values(version=7).where(Page.__table__.c.id == page.id)  # type: ignore[arg-type]
    )
    page.text = "second"


class AtFlush(ApiHandler):
    """Flushes in its own call."""

    async def post(self) -> None:
        def work(session: Session) -> None:
            edit_a_stale_page(session)
            session.flush()

        await self.run(work, self.session)


class AtCommit(ApiHandler):
    """Leaves the flush to the commit."""

    async def post(self) -> None:
        await self.run(edit_a_stale_page, self.session)


@pytest.mark.gen_test
@pytest.mark.parametrize("handler", [AtFlush, AtCommit])
async def test_a_row_that_was_changed_meanwhile_is_a_409(
    handler: type[ApiHandler], mount: Mount, database: Database
) -> None:
    await asyncio.to_thread(database.create_all, Base.metadata)

    answer = await mount(handler).post("/", b"")

    assert answer.code == 409
    assert answer.json()["detail"] == "the row has been changed or deleted since it was read"
    assert answer.json()["outcome"] == "not_applied"


def test_in_a_session_scope_it_is_a_conflict_at_its_end(database: Database) -> None:
    database.create_all(Base.metadata)

    with pytest.raises(Conflict, match="has been changed"), database.session_scope() as session:
        edit_a_stale_page(session)
