"""Sessions and transactions: which unit of work owns one, where it runs, and what becomes of it."""

from __future__ import annotations

from db.database import Database
from db.engines.engine import make_engine, make_url
from db.jobs import Jobs
from db.outcome import Outcome
from db.retry import RetryPolicy
from db.work.async_unit_of_work import AsyncUnitOfWork, passes_on
from db.work.unit_of_work import UnitOfWork

__all__ = [
    "AsyncUnitOfWork",
    "Database",
    "Jobs",
    "Outcome",
    "RetryPolicy",
    "UnitOfWork",
    "make_engine",
    "make_url",
    "passes_on",
]
