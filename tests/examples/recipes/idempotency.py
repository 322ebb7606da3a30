"""Requests that are done once under their key, each principal with keys of its own."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, Session, mapped_column
from tornado.web import authenticated

from handlers import IdempotentHandler
from tests.examples.recipes.login import Base, UserHandler


class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    cents: Mapped[int]


def create_payment(session: Session, *, user_id: int, cents: int) -> int:
    session.add(payment := Payment(user_id=user_id, cents=cents))
    session.flush()
    return payment.id


class PaymentsHandler(UserHandler, IdempotentHandler):
    def idempotency_principal(self) -> str:
        return f"user {self.current_user.id}"

    @authenticated
    async def post(self) -> None:
        user_id, cents = self.current_user.id, int(self.get_body_argument("cents"))
        self.set_status(201)
        self.write({"id": await self.run(create_payment, self.session, user_id=user_id, cents=cents)})
