"""What load balancers and orchestrators ask: ``/livez`` and ``/readyz``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, with_config
from tornado.routing import URLSpec
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from db import Database
from db.health import Fault, Work, faults_of_all, told
from handlers.json_api.errors import CLOSED
from handlers.json_api.problem import ProblemHandler
from handlers.json_api.query import Query
from handlers.lifecycle.errors import RETRY_AFTER_S
from handlers.openapi.operation import OPERATION, Answer, operation

log = logging.getLogger("onfinish.handlers")

_REASONS = "not_ready_reasons"
_DRAINING = "draining: the service is shutting down"


class Purpose(Query):
    """What for."""

    work: Work | None = Field(
        None, description="`reads` or `writes`, of which a failover may leave the former; both by default."
    )


@with_config(CLOSED)
class Alive(TypedDict):
    """The process runs."""

    status: Literal["alive"]


@with_config(CLOSED)
class Ready(TypedDict):
    """Requests may be sent here."""

    status: Literal["ready"]


@with_config(CLOSED)
class NotReady(TypedDict):
    """Requests had better be sent elsewhere."""

    status: Literal["not ready"]
    reason: str


class LivezHandler(ProblemHandler):
    """Whether the process runs. Touches no database: a restart would not mend one."""

    @operation(
        name="get_liveness",
        tag=OPERATION,
        summary="Whether the process runs; touches no database",
        answers=(Answer(200, "It does.", Alive, {"status": "alive"}),),
    )
    def get(self) -> None:
        """200 as long as the event loop turns."""
        self.write_json({"status": "alive"})


class ReadyzHandler(ProblemHandler):
    """Whether requests should be sent here."""

    @operation(
        name="get_readiness",
        tag=OPERATION,
        summary="Whether requests should be sent here",
        answers=(
            Answer(200, "They may be.", Ready, {"status": "ready"}),
            Answer(
                503,
                "They had better not: a database is unreachable, its schema is behind, or the service is "
                "shutting down.",
                NotReady,
                {"status": "not ready", "reason": _DRAINING},
                headers=("Retry-After",),
            ),
        ),
    )
    async def get(self, purpose: Purpose) -> None:
        """200, or 503 with the reason."""
        reason = _DRAINING if self.settings.get("draining") else None
        if reason is None:
            database: Database = self.settings["database"]
            revision = self.settings.get("schema_revision")
            others = self.settings.get("databases", {})
            faults = await faults_of_all(database, others, revision=revision, work=purpose.work)
            reason = told(faults)
            self._log_change(faults, purpose.work)
        if reason is None:
            self.write_json({"status": "ready"})
        else:
            self.set_header("Retry-After", str(RETRY_AFTER_S))
            self.write_json({"status": "not ready", "reason": reason}, status=503)

    def _log_change(self, faults: Sequence[Fault], work: Work | None) -> None:
        """Log a change, once: probes come every few seconds. The driver's message is in the log alone."""
        reasons = self.settings.setdefault(_REASONS, {})
        reason, before = told(faults), reasons.get(work)
        if reason == before:
            return
        reasons[work] = reason
        what = f" for {work}" if work else ""
        if reason is None:
            log.info("ready again%s", what)
        else:
            log.warning("not ready%s: %s", what, "; ".join(map(str, faults)))


ROUTES = (URLSpec("/livez", LivezHandler, name="livez"), URLSpec("/readyz", ReadyzHandler, name="readyz"))
