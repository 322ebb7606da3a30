"""The interactive session of docs/sessions.md prints what the page shows."""

from __future__ import annotations

import doctest

from sqlalchemy import text

from db import Database
from tests.documents import DOCS, blocks
from tests.examples.sessions import Base, Player, Squad

PAGE = DOCS / "sessions.md"


def test_the_interactive_session_prints_what_the_page_says(database: Database):
    """One after the other, in one namespace, as the page is read."""
    database.create_all(Base.metadata)
    with database.session_scope() as session:
        session.add_all([Squad(id=1, name="home"), Squad(id=2, name="guests")])
    globs = {"database": database, "Player": Player, "text": text}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for block in blocks(PAGE, "pycon"):
        test = doctest.DocTestParser().get_doctest(block.text, globs, str(block), str(PAGE), block.line)
        assert test.examples
        runner.run(test, clear_globs=False)
        globs |= test.globs

    assert runner.summarize(verbose=False).failed == 0
