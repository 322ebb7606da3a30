"""An engine beside the endpoints: for questions that none of their connections can answer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from conf import DatabaseSettings
from db.backend import Backend, Role
from db.engines.engine import make_engine


def engine_beside(settings: DatabaseSettings, role: Role, backend: Backend, writer: Engine) -> Engine:
    """An engine that connects as the writer does, through a driver that blocks.

    Args:
        settings: of the database, for that driver.
        writer: the engine whose listeners of ``do_connect`` decide what to connect with: for example an
            application's, that renews a token. One that opens asyncio connections is of no use here.
            https://docs.sqlalchemy.org/en/21/core/engines.html#generating-dynamic-authentication-tokens

    Returns:
        An engine that the caller disposes of.
    """
    engine = make_engine(settings, role, backend)

    @event.listens_for(engine, "do_connect")
    def as_the_writer(dialect: Any, record: Any, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        for listener in writer.dialect.dispatch.do_connect:
            connection = listener(dialect, record, arguments, parameters)
            if connection is not None:
                return connection
        return None

    return engine
