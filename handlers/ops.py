"""What load balancers and orchestrators ask."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from db import Database
from db.health import Fault, faults_of, told
from handlers.json_api.problem import ProblemHandler

log = logging.getLogger("onfinish.handlers")

_REASON = "not_ready_reason"


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
            faults = await faults_of(database, revision=self.settings.get("schema_revision"))
            reason = told(faults)
            self._log_change(faults)
        if reason is None:
            self.write_json({"status": "ready"})
        else:
            self.set_header("Retry-After", "1")
            self.write_json({"status": "not ready", "reason": reason}, status=503)

    def _log_change(self, faults: Sequence[Fault]) -> None:
        """Log why, once: probes come every few seconds. With the driver's words, which no answer shows."""
        reason, before = told(faults), self.settings.get(_REASON)
        if reason == before:
            return
        self.settings[_REASON] = reason
        if reason is None:
            log.info("ready again")
        else:
            log.warning("not ready: %s", "; ".join(map(str, faults)))
