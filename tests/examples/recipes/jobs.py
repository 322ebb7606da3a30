"""Mails that are due by a row of the request's own transaction, and sent by a job."""

import logging
from threading import Event

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application

from db import Database, Jobs
from handlers import ApiHandler

log = logging.getLogger("mails")


class Base(DeclarativeBase):
    pass


class Mail(Base):
    __tablename__ = "mails"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]
    is_sent: Mapped[bool] = mapped_column(default=False)


def send_next(session: Session) -> bool:
    """Send the oldest mail that is due; returns whether there was one."""
    due = select(Mail).where(Mail.is_sent.is_(False)).order_by(Mail.id).limit(1)
    mail = session.scalars(due.with_for_update(skip_locked=True)).one_or_none()
    if mail is None:
        return False
    mail.is_sent = True
    session.flush()
    log.info("to %s", mail.address)  # the mail server; with a time-out
    return True


def send_mails(database: Database, stopping: Event) -> None:
    while not stopping.is_set() and database.run_in_transaction(send_next):
        pass


def start_jobs(database: Database) -> Jobs:
    jobs = Jobs(database)
    jobs.every(5, send_mails, database, jobs.stopping, in_transaction=False)
    return jobs


class OrdersHandler(ApiHandler):
    async def post(self) -> None:
        self.session.add(Mail(address=self.get_body_argument("address")))
        self.set_status(201)


def make_app(database: Database) -> Application:
    return Application([("/orders", OrdersHandler)], database=database)
