"""Authorization: which rows a user may see, and which it may change."""

from sqlalchemy import ForeignKey, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column
from tornado.web import authenticated

from db.errors import NotFound
from handlers import Problem
from tests.examples.recipes.login import Base, UserHandler


class Document(Base):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    is_public: Mapped[bool] = mapped_column(default=False)
    text: Mapped[str]


def get_document(session: Session, *, document_id: int, user_id: int, lock: bool = False) -> Document:
    """A document that the user may see. Another one is as one that does not exist."""
    may_see = or_(Document.owner_id == user_id, Document.is_public)
    statement = select(Document).where(Document.id == document_id, may_see)
    document = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if document is None:
        raise NotFound("document", document_id)
    return document


class DocumentHandler(UserHandler):
    async def document(self, number: str, *, lock: bool = False) -> Document:
        user_id = self.current_user.id
        return await self.run(get_document, self.session, document_id=int(number), user_id=user_id, lock=lock)

    @authenticated
    async def get(self, number: str) -> None:
        self.write({"text": (await self.document(number)).text})

    @authenticated
    async def put(self, number: str) -> None:
        document = await self.document(number, lock=True)
        if document.owner_id != self.current_user.id:
            raise Problem(403, "only its owner may change a document")
        document.text = self.get_body_argument("text")
