"""HTML pages with a form, and XSRF tokens."""

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.template import DictLoader
from tornado.web import Application

from db import Database
from db.errors import Conflict
from handlers import SessionHandler

PAGE = """<!doctype html>
<title>Guests</title>
{% if error %}<p role="alert">{{ error }}</p>{% end %}
<form method="post">{% module xsrf_form_html() %}<input name="name" value="{{ name }}"></form>
<ul>{% for guest in guests %}<li>{{ guest }}</li>{% end %}</ul>
"""


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


def list_guests(session: Session) -> list[str]:
    return list(session.scalars(select(Guest.name).order_by(Guest.id)))


def create_guest(session: Session, *, name: str) -> None:
    with session.begin_nested():  # what is refused leaves the transaction usable: the page lists the guests
        session.add(Guest(name=name))


class GuestsHandler(SessionHandler):
    async def get(self, error: str = "", name: str = "") -> None:
        self.render("guests.html", error=error, name=name, guests=await self.run(list_guests, self.session))

    async def post(self) -> None:
        name = self.get_body_argument("name")
        try:
            await self.run(create_guest, self.session, name=name)
        except Conflict:
            self.set_status(409)
            await self.get("There is a guest of this name.", name)
        else:
            self.redirect("/guests")


def make_app(database: Database) -> Application:
    return Application(
        [("/guests", GuestsHandler)],
        database=database,
        template_loader=DictLoader({"guests.html": PAGE}),
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )
