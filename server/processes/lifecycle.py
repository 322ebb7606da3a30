"""The life of the server process: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tornado.web import Application

from conf import Settings
from conf.logs import set_up_logs
from db import Database, Jobs
from db.doctor.findings import Finding
from db.health import first_look
from db.schema.newest import bring_up, bring_up_on, newest
from handlers.websocket import Sockets
from server.app import make_app
from server.compare.mount import close_twins
from server.edge.hosts import Hosts, hosts_of
from server.edge.http import DrainingServer
from server.edge.listening import CannotListen, Listening, listen
from server.findings import lines
from server.jobs import start_jobs
from server.monitoring.ops import Ops
from server.processes.autoreload import Autoreload
from server.processes.banner import banner
from server.processes.event_loop import run_loop
from server.processes.hard_exit import end_after
from server.processes.sd_notify import READY, STOPPING, sd_notify

log = logging.getLogger("onfinish.server")

EXIT_OK, EXIT_CUT_OFF, EXIT_NO_PORT = 0, 1, 1

CLOSE_S = 10.0
"""The time beyond grace and drain in which a process closes its connections; then it is terminated. Its
parent waits longer, and systemd has to."""

_YOUNG_MAX = 10_000
"""New objects between two garbage collections; with Python's own 700 they are 2 to 3 % of a request."""

SAME_SIGNAL_S = 0.2
"""One Ctrl-C arrives twice where both the terminal and a wrapper send it to the process."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP. Prints a banner with the URL, logs to stderr.

    Returns:
        The exit status: 0 when every request in flight was answered, 1 when ``http.drain_s`` ran out
        first, or when the port could not be listened on.

    Raises:
        DatabaseError: the database's file could not be brought up to date, or there is a pooler in front of
            the database that is not in the settings.
    """
    set_up_logs(settings.log)
    settings = named_by_process(settings)
    try:
        return run_loop(Lifecycle(settings, Ops(settings)).run(), settings)
    except KeyboardInterrupt:  # a second one: it ends at once
        return EXIT_CUT_OFF


def named_by_process(settings: Settings) -> Settings:
    """The same settings, with a name in ``pg_stat_activity`` that identifies a session's process."""
    database = settings.database
    name = f"{database.application_name[:50]} {os.getpid()}"  # PostgreSQL cuts it at 63
    return settings.model_copy(update={"database": database.model_copy(update={"application_name": name})})


def stopping_signals() -> set[signal.Signals]:
    """The signals that stop a server in order.

    SIGHUP is one: a terminal that is closed sends it. Not where it was inherited as ignored, as ``nohup``
    sets it for a command that is to outlive its terminal.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    return numbers - ({signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set())


class Parent(NamedTuple):
    """What a process gets from its parent, which replaces it. Lives as long as the process."""

    link: socket.socket
    """The process sends a byte when it serves; the socket closes with the parent."""

    listening: Listening
    first: bool
    """Whether the process runs the jobs that are needed once a server."""


class Lifecycle:
    """One server process from its start to its end. Lives as long as `run`.

    On the first SIGTERM, SIGINT or SIGHUP ``/readyz`` turns to 503; for ``http.grace_s`` new connections are
    still accepted, until the load balancer has noticed; then none are, idle connections are closed, and
    requests in flight have ``http.drain_s`` to be answered. Those that hang after that end with the process.
    A second SIGTERM or SIGINT ends it at once.

    Args:
        settings: those of the service.
        ops: its monitoring.
        parent: None where this is the only process.
    """

    def __init__(self, settings: Settings, ops: Ops, parent: Parent | None = None) -> None:
        self._settings = settings
        self._ops = ops
        self._parent = parent
        self._stop = asyncio.Event()
        self._signalled_at: float | None = None
        self._jobs: Jobs | None = None
        self._findings: list[Finding] = []
        self._next_step: str | None = None

    async def run(self) -> int:
        """Serve until a stop signal; returns the exit status."""
        ops, parent = self._ops, self._parent
        database = Database(self._settings.database, observer=ops.metrics)
        application: Application | None = None
        try:
            if parent is None:
                await self._bring_schema_up(database)
                revision = newest(self._settings.database.models).head
                self._findings = await first_look(database, revision=revision)
            try:
                listening = listen(self._settings) if parent is None else parent.listening
            except CannotListen as error:
                print(f"onfinish: {error}", file=sys.stderr)
                return EXIT_NO_PORT
            application = make_app(self._settings, database, ops)
            if parent is None and not self._findings:
                self._next_step = await application.settings["pages"].first_step()
            server = DrainingServer(application, self._settings.http, hosts=self._hosts(listening))
            server.add_sockets(listening.http)
            ops.listen(listening.ops)
            await ops.start(application, database, server)
            self._jobs = self._start_jobs(database)
            self._listen_to_signals()
            _freeze_objects()
            autoreload = Autoreload()
            if self._settings.autoreload:
                autoreload.start()
            self._report_ready(listening)
            ops.watch(database)  # last: the start itself may block the loop, and delays no request
            await self._stop.wait()
            await autoreload.stop()
            status = await self._drain(application, server, database)
            await ops.stop()
            log.info("stopped")
            return status
        finally:
            if application is not None:
                await close_twins(application)
            await database.close()

    def _hosts(self, listening: Listening) -> Hosts | None:
        http = self._settings.http
        return hosts_of(
            http.hosts,
            setting="http.hosts",
            production=self._settings.production,
            address=http.address,
            sockets=listening.http,
        )

    def _start_jobs(self, database: Database) -> Jobs | None:
        every_s = self._settings.ops.jobs_every_s
        if every_s is None:
            return None
        first = self._parent is None or self._parent.first
        return start_jobs(database, first=first, every_s=every_s)

    async def _bring_schema_up(self, database: Database) -> None:
        """Migrate an SQLite file, which belongs to this process; a server's database is not migrated here."""
        if not database.backend.belongs_to_process:
            return

        def upgrade() -> None:
            if database.backend.shares_one_connection:  # in memory: no other connection would see it
                with database.writer.engine.begin() as connection:
                    bring_up_on(connection, self._settings.database)
            else:
                bring_up(self._settings.database)

        await asyncio.get_running_loop().run_in_executor(None, upgrade)

    async def _drain(self, application: Application, server: DrainingServer, database: Database) -> int:
        http = self._settings.http
        end_after(http.grace_s + http.drain_s + CLOSE_S, status=EXIT_CUT_OFF)
        application.settings["draining"] = True
        server.end_keep_alive()
        log.info("stopping: %d requests in flight", server.busy)
        await asyncio.sleep(http.grace_s)
        server.stop()
        deadline = time.monotonic() + http.drain_s
        sockets: Sockets = application.settings["sockets"]
        sockets.go_away()
        await server.close_idle()
        application.settings["refuses_requests_since"] = time.time()
        await server.drained(max(0.0, deadline - time.monotonic()))
        # Only then, since a request may still open one; and a write continues after its client has left.
        await database.idle(max(0.0, deadline - time.monotonic()))
        left = max(server.busy, len(database.units), len(database.tasks))
        if left:
            log.error(
                "%d requests were not answered within %g s; they are cut off and rolled back",
                left,
                http.drain_s,
            )
        if self._jobs is not None:
            await self._jobs.stop()
        await database.close()
        await server.close_all_connections()
        return EXIT_CUT_OFF if left else EXIT_OK

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in stopping_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a parent has blocked them until now

    def _report_ready(self, listening: Listening) -> None:
        if self._parent is None:
            print_banner(self._settings, listening, self._findings, next_step=self._next_step)
            sd_notify(READY)
            return
        link = self._parent.link
        link.setblocking(False)
        link.send(b"r")
        asyncio.get_running_loop().add_reader(link, self._on_parents_end, link)

    def _on_parents_end(self, link: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(link)
        log.error("the parent process is gone: stopping")
        self._stop.set()

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._signalled_at is not None:
            # A parent kills at the second signal, and forwards the first one, which the terminal sent to all.
            # A terminal that is closed may send SIGHUP twice, and its shell once more.
            is_same = now - self._signalled_at < SAME_SIGNAL_S or number == signal.SIGHUP
            if is_same or self._parent is not None:
                return
            log.warning("a second signal: stopping at once")
            logging.shutdown()
            os._exit(EXIT_CUT_OFF)
        self._signalled_at = now
        log.info("%s received", signal.Signals(number).name)
        if self._parent is None:
            sd_notify(STOPPING)
        self._stop.set()


def _freeze_objects() -> None:
    """Exclude today's objects from garbage collection: nearly all of them live as long as the process.

    Otherwise the collector traversed a hundred thousand objects now and then, and blocked the process for 60
    to 80 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, 10, 10)


def print_banner(
    settings: Settings,
    listening: Listening,
    findings: Sequence[Finding] = (),
    *,
    next_step: str | None = None,
) -> None:
    """Print the service's URL and those of its pages, and the findings that keep it from serving.

    Args:
        next_step: what the application suggests, whose database is empty.
    """
    for line in banner(settings, listening):
        print(line, flush=True)
    for finding in findings:
        print(_lines_of(finding), flush=True)
    if next_step is not None:
        print(lines("  next      ", next_step, ""), flush=True)
    print("  stop with Ctrl-C", flush=True)


def _lines_of(finding: Finding) -> str:
    label = "not ready" if finding.level == "error" else finding.level
    return lines(f"  {label:<10}", finding.message, finding.fix)
