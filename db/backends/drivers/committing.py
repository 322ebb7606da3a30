"""asyncpg's connections, with the commit marker in one string with COMMIT: a round trip less."""

from __future__ import annotations

from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types


class CommittingConnection(asyncpg.Connection):  # type: ignore[misc]  # as above
    """A connection of asyncpg's. Lives until it is closed.

    ``marker``: what goes before the next COMMIT. ``has_refused_marker``: the server has refused the last one,
    and COMMIT has not run.
    """

    marker = ""
    has_refused_marker = False

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's, whose transactions commit by it."""
        if not self.marker or query != "COMMIT;":
            return str(await super().execute(query, *args, **options))
        marker, self.marker = self.marker, ""
        try:
            return str(await super().execute(f"{marker}; {query}", **options))
        except asyncpg.PostgresError:
            self.has_refused_marker = not self.is_closed() and self.is_in_transaction()
            if self.has_refused_marker:  # asyncpg takes a COMMIT that has failed for the transaction's end
                await super().execute("ROLLBACK;")
            raise
