"""Sentry: faults once, by route and request id, with the time of each statement and of COMMIT."""

from typing import Any

import sentry_sdk
from sentry_sdk.integrations.sqlalchemy import SqlalchemyIntegration
from sentry_sdk.integrations.tornado import TornadoIntegration
from tornado.web import Application

from db import Database
from handlers import ApiHandler
from tests.examples.recipes import notes


def watch(database: Database, dsn: str, **options: Any) -> None:
    sentry_sdk.init(
        dsn=dsn,
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,  # asyncpg's would have each statement once more
        integrations=[TornadoIntegration(), SqlalchemyIntegration()],
        include_local_variables=False,  # those of SQLAlchemy's frames are the statement's parameters
        max_request_body_size="never",
        **options,
    )
    dialect = database.writer.engine.dialect
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        # A request's transaction ends with its method, and COMMIT comes later: it is one of its own, in the
        # same trace, and in a scope in which it keeps its name.
        trace = {"sentry-trace": sentry_sdk.get_traceparent()}
        with sentry_sdk.scope.use_isolation_scope(sentry_sdk.Scope()):
            transaction = sentry_sdk.continue_trace(trace, op="db", name="COMMIT")
            with sentry_sdk.start_transaction(transaction):
                commit(connection)

    dialect.do_commit = do_commit  # type: ignore[method-assign,assignment]


class WatchedHandler(ApiHandler):
    async def prepare(self) -> None:
        await super().prepare()
        sentry_sdk.set_tag("request_id", self.request_id)


class NotesHandler(WatchedHandler):
    async def post(self) -> None:
        words = self.get_body_argument("words")
        if words.startswith("?"):
            await self.run(notes.misspell, self.session, words=words)
        self.write_json(await self.run(notes.create_note, self.session, words=words), 201)


def make_app(database: Database) -> Application:
    return Application([("/notes", NotesHandler)], database=database)
