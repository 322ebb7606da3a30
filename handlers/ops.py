"""What load balancers and orchestrators ask."""

from __future__ import annotations

from db import Database
from db.health import why_not_ready
from handlers.problem import ProblemHandler


class LivezHandler(ProblemHandler):
    """Whether the process runs. Touches no database: a restart would not mend one."""

    def get(self) -> None:
        """200 as long as the event loop turns."""
        self.write_json({"status": "alive"})


class ReadyzHandler(ProblemHandler):
    """Whether requests should be sent here."""

    async def get(self) -> None:
        """200, or 503 with the reason."""
        reason = "draining: the service is shutting down" if self.settings.get("draining") else None
        if reason is None:
            database: Database = self.settings["database"]
            reason = await why_not_ready(database, revision=self.settings.get("schema_revision"))
        if reason is None:
            self.write_json({"status": "ready"})
        else:
            self.set_header("Retry-After", "1")
            self.write_json({"status": "not ready", "reason": reason}, status=503)
