"""A kit for the tests of an application: databases, sessions, clients, and what is expected of them.

The functions work with any test runner, on the event loop of the test. pytest has fixtures of them besides
(`plugin`), which it finds by itself.
"""

from __future__ import annotations

from server.testing.case import ApplicationTestCase
from server.testing.client import Answer, Client, serving
from server.testing.databases import FreshDatabases, Schema, close_database
from server.testing.logs import Ear, ExpectLog, in_words
from server.testing.on_commit import OnCommitCall, recorded_on_commit
from server.testing.session import rolled_back_session
from server.testing.statements import SentStatement, statements_at_most

__all__ = [
    "Answer",
    "ApplicationTestCase",
    "Client",
    "Ear",
    "ExpectLog",
    "FreshDatabases",
    "OnCommitCall",
    "Schema",
    "SentStatement",
    "close_database",
    "in_words",
    "recorded_on_commit",
    "rolled_back_session",
    "serving",
    "statements_at_most",
]
