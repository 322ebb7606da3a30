"""Tornado's test case, with a database for each test."""

from __future__ import annotations

from typing import ClassVar

from tornado.testing import AsyncHTTPTestCase

from conf import DatabaseSettings
from db import Database
from server.testing.databases import FreshDatabases, Schema, close_database


class ApplicationTestCase(AsyncHTTPTestCase):
    """Tornado's `AsyncHTTPTestCase`, in which each test has a database of its own: ``self.database``.

    It is there when `get_app` is called, and closed on the loop of the test at its end; a test that has left
    a unit of work or a connection open in it fails. On SQLite, or the server of ``TEST_DATABASE_URL``.
    """

    database_schema: ClassVar[Schema]
    """What makes the tables of the application."""

    database: Database
    _databases: ClassVar[FreshDatabases]

    @classmethod
    def setUpClass(cls) -> None:
        """Make what the tests' databases are copies of."""
        super().setUpClass()
        cls._databases = FreshDatabases(cls.database_schema)
        cls.addClassCleanup(cls._databases.close)

    def make_database(self, settings: DatabaseSettings) -> Database:
        """The database of one test, for a class that has sessions of its own, or other settings."""
        return Database(settings)

    def setUp(self) -> None:
        """Make the test's database, then all that Tornado's makes."""
        url = self.enterContext(self._databases.fresh())
        self.database = self.make_database(DatabaseSettings(url=url))
        super().setUp()

    def tearDown(self) -> None:
        """Close the database on the loop, then do what Tornado's does."""
        try:
            self.io_loop.run_sync(lambda: close_database(self.database))
        finally:
            super().tearDown()
