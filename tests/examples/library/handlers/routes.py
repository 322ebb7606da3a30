"""The library's routes, and what its document is headed with."""

from tornado.routing import URLSpec

from handlers.openapi.document import About
from tests.examples.library.handlers import live, loans, members

ABOUT = About(title="A lending library", summary="Books, members and loans.")


def routes() -> list[URLSpec]:
    return [
        URLSpec("/login", members.LoginHandler),
        URLSpec("/books", loans.BooksHandler),
        URLSpec("/loans", loans.LoansHandler),
        URLSpec("/loans/([0-9]{1,18})/return", loans.ReturnHandler),
        URLSpec("/loans/overdue", loans.OverdueHandler),
        URLSpec("/loans/reminders", loans.RemindersHandler),
        URLSpec("/loans.csv", loans.ExportHandler),
        URLSpec("/live", live.LivePage),
        URLSpec("/live/socket", live.LiveSocket),
    ]
