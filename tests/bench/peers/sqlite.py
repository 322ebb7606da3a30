"""What the peers with an ORM need on SQLite, as its users have it from SQLAlchemy's documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, TypeDecorator, event


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: SQLite keeps no zone. https://docs.sqlalchemy.org/en/21/core/custom_types.html"""

    impl = DateTime
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware."""
        return None if value is None else value.replace(tzinfo=UTC)


MOMENT = DateTime(timezone=True).with_variant(UtcDateTime(), "sqlite")
"""On any other database SQLAlchemy's own type."""


def enforce_foreign_keys(engine: Engine) -> None:
    """https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#foreign-key-support"""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def connect(connection: Any, record: object) -> None:
            connection.execute("PRAGMA foreign_keys = ON").close()
