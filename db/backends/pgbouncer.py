"""PostgreSQL behind PgBouncer, which pools transactions."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, event

from conf import DatabaseSettings
from db.backend import Role
from db.backends.postgresql import READ_ONLY_DEFAULT, PostgreSQL
from db.guard import guard_of

_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|[^\s\\])*)(?:\s+|$)", re.DOTALL)
"""One server setting as a command line has it: ``-c name=value``, a backslash before a blank in the value.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS"""


class PgBouncer(PostgreSQL):
    """PostgreSQL through PgBouncer with ``pool_mode = transaction``. https://www.pgbouncer.org/features.html

    Each transaction may find itself on another connection to the server, one that others have used and will
    use, so nothing is set for longer than a transaction. What goes into a connection's start-up options
    elsewhere, which PgBouncer refuses, is local to the transaction here, and goes in one string with its
    first statement: it costs no round trip, with psycopg2. The reader's transactions are
    ``BEGIN READ ONLY``, which the driver sends, so that no statement gets past it: two round trips more than
    in AUTOCOMMIT.

    The commit marker is as elsewhere. Its row belongs to a connection from us to PgBouncer, which has one
    transaction at a time, whichever connections to the server they are run on.
    """

    reader_autocommits = False
    cannot_change_session = (
        "behind PgBouncer, where it is another client's next. What is local to a transaction is allowed: "
        "SET LOCAL, set_config(…, true) with the word `true`, pg_advisory_xact_lock, CREATE TEMP TABLE … ON "
        "COMMIT DROP"
    )
    why_no_sessions = (
        "behind PgBouncer a connection has an id of PgBouncer's, so that locks cannot be mapped to requests"
    )
    _prefix = ""

    def effect_of(self, sql: str) -> int:
        return super().effect_of(sql.removeprefix(self._prefix))

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        return self.driver.behind_pooler(super().connect_args(settings, role))

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        options = super().engine_options(settings, role)
        options.pop("isolation_level", None)
        return options

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        super().install(engine, settings, role)
        if role == "reader":

            @event.listens_for(engine, "connect")
            def begins_read_only(connection: Any, record: object) -> None:
                self.driver.begins_read_only(connection)

        before = self._before_first_statement(settings, role)
        if not before:
            return
        self._prefix = "; ".join([*before, ""])

        @event.listens_for(engine, "before_cursor_execute", retval=True)
        def put_before_first_statement(
            connection: Connection, cursor: Any, statement: str, parameters: Any, context: object, many: bool
        ) -> tuple[str, Any]:
            guard = guard_of(connection)
            if guard is not None:
                guard.check()  # what comes before a statement is sent only where the statement may be
            # The driver sends BEGIN with the first statement, so before that one there is no transaction yet.
            if not self.driver.is_idle(connection.connection.dbapi_connection):
                return statement, parameters
            # A server-side cursor is declared for its statement alone, and % would be read as a parameter's.
            alone = many or getattr(cursor, "name", None) is not None or "%" in "".join(before)
            if self.driver.takes_several_statements and not alone:
                return "; ".join([*before, statement]), parameters
            with closing(connection.connection.cursor()) as own:
                for each in self.driver.batches(before):
                    own.execute(each)
            return statement, parameters

    def _before_first_statement(self, settings: DatabaseSettings, role: Role) -> list[str]:
        limits = self._settings(settings, role)
        limits.pop(READ_ONLY_DEFAULT, None)
        statements = [f"SET LOCAL {name} = {value}" for name, value in limits.items()]
        for name, value in parsed(self._given_options(settings)):
            # As a function: SET would take "a, b" for the name of one schema, where options mean two.
            quoted = value.replace("'", "''")
            statements.append(f"SELECT set_config('{name}', '{quoted}', true)")
        return statements


def parsed(options: str) -> list[tuple[str, str]]:
    """The settings in a text of options.

    Raises:
        ValueError: it holds something else.
    """
    found = []
    rest = options.strip()
    while rest:
        match = _OPTION.match(rest)
        if match is None:
            raise ValueError(
                "the connection's options hold more than settings (-c name=value), and behind PgBouncer only "
                "settings can be had"
            )
        found.append((match[1].replace("-", "_"), re.sub(r"\\(.)", r"\1", match[2])))
        rest = rest[match.end() :]
    return found
