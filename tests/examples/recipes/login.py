"""Log-in with a signed cookie and Tornado's `authenticated`."""

import asyncio
import hashlib
import hmac

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application, HTTPError, authenticated

from db import Database
from handlers import SessionHandler


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    salt: Mapped[bytes]
    digest: Mapped[bytes]


def digest_of(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def find_user(session: Session, *, name: str) -> User | None:
    return session.scalars(select(User).where(User.name == name)).one_or_none()


class UserHandler(SessionHandler):
    async def prepare(self) -> None:
        await super().prepare()
        if (cookie := self.get_signed_cookie("user", max_age_days=7)) is not None:
            self.current_user = await self.run(self.session.get, User, int(cookie))


class HomeHandler(UserHandler):
    @authenticated
    async def get(self) -> None:
        self.write({"user": self.current_user.name})


class LoginHandler(SessionHandler):
    async def post(self) -> None:
        user = await self.run(find_user, self.session, name=self.get_body_argument("name"))
        password = self.get_body_argument("password", strip=False)
        digest = await asyncio.to_thread(digest_of, password, user.salt if user else b"")
        if user is None or not hmac.compare_digest(digest, user.digest):
            raise HTTPError(401)
        self.set_signed_cookie("user", str(user.id), httponly=True, samesite="Lax")
        self.redirect("/")


def make_app(database: Database, cookie_secret: str) -> Application:
    routes = [("/", HomeHandler), ("/login", LoginHandler)]
    return Application(routes, database=database, cookie_secret=cookie_secret, login_url="/login")
