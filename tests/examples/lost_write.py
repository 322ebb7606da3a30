"""Notes whose COMMIT comes behind the answer, and the same method on a handler that holds the answer back."""

from sqlalchemy.orm import Session
from tornado.web import RequestHandler

from handlers import SessionHandler
from tests.examples.notes import Note


class NaiveHandler(RequestHandler):
    def prepare(self) -> None:
        self.session = Session(self.settings["engine"])

    def on_finish(self) -> None:
        try:
            self.session.commit()  # may fail, and the client has read its 201
        finally:
            self.session.close()


class NaiveNotesHandler(NaiveHandler):
    def post(self) -> None:
        self.session.add(Note(text=self.get_body_argument("text")))
        self.set_status(201)


class HeldNotesHandler(SessionHandler):
    def post(self) -> None:
        self.session.add(Note(text=self.get_body_argument("text")))
        self.set_status(201)
