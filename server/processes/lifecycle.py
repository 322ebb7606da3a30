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
from db import Database
from db.doctor.findings import Finding
from db.health import first_look
from db.schema import migrate
from handlers.websocket import Sockets
from server.app import make_app
from server.edge.hosts import Hosts, hosts_of
from server.edge.http import DrainingServer
from server.edge.listening import CannotListen, Listening, listen
from server.findings import lines
from server.jobs import Jobs, jobs_of
from server.monitoring.ops import Ops
from server.processes.autoreload import Autoreload
from server.processes.event_loop import run_loop
from server.processes.hard_exit import end_after
from server.processes.sd_notify import READY, STOPPING, notify

log = logging.getLogger("onfinish.server")

EXIT_OK, EXIT_CUT_OFF, EXIT_NO_PORT = 0, 1, 1

CLOSE_S = 10.0
"""What a process may take beyond its grace and drain, to close its connections; then it is ended. Its
parent's patience is longer, and systemd's has to be."""

_YOUNG_MAX = 10_000
"""New objects between two looks of the collector; at Python's own 700 they are 2 to 3 % of a request."""

_SAME_SIGNAL_S = 0.2
"""One Ctrl-C comes twice where a wrapper passes it on to a process that the terminal told already."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP. Prints a banner with the URL, logs to stderr.

    Returns:
        The exit status: 0 when every request in flight was answered, 1 when ``http.drain_s`` ran out
        first, or when the port could not be had.

    Raises:
        DatabaseError: the database's file could not be brought up to date, or a pooler stands before the
            database that the settings do not know of.
    """
    set_up_logs(settings.log)
    settings = named_by_process(settings)
    try:
        return run_loop(Lifecycle(settings, Ops(settings)).run(), settings)
    except KeyboardInterrupt:  # a second one: it ends at once
        return EXIT_CUT_OFF


def named_by_process(settings: Settings) -> Settings:
    """The same settings, with a name in ``pg_stat_activity`` that tells which process a session is of."""
    database = settings.database
    name = f"{database.application_name[:50]} {os.getpid()}"  # PostgreSQL cuts it at 63
    return settings.model_copy(update={"database": database.model_copy(update={"application_name": name})})


def stopping_signals() -> set[signal.Signals]:
    """The signals that stop a server in order.

    SIGHUP is one: it is what a terminal sends that is closed. Not where it was inherited as ignored, as
    ``nohup`` leaves it to a command that is to outlive its terminal.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    return numbers - ({signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set())


class Parent(NamedTuple):
    """What a process has from the one that started it, and that replaces it. Lives as long as the process."""

    link: socket.socket
    """Takes a byte when the process serves, and ends with the parent."""

    listening: Listening
    first: bool
    """Whether the process does the jobs that one alone has to do."""


class Lifecycle:
    """One server process from its start to its end. Lives as long as `run`.

    On the first SIGTERM, SIGINT or SIGHUP ``/readyz`` turns to 503; for ``http.grace_s`` new connections are
    still taken, until the load balancer has noticed; then none are, connections at rest are closed, and what
    is in flight has ``http.drain_s`` to be answered. What hangs after that ends with the process. A second
    SIGTERM or SIGINT ends it at once.

    Args:
        settings: what to serve, and where.
        ops: shows how it is doing.
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

    async def run(self) -> int:
        """Serve until told to stop; returns the exit status."""
        ops, parent = self._ops, self._parent
        database = Database(self._settings.database, observer=ops.metrics)
        try:
            if parent is None:
                await self._bring_schema_up(database)
                self._findings = await first_look(database, revision=migrate.head())
            try:
                listening = listen(self._settings) if parent is None else parent.listening
            except CannotListen as error:
                print(f"onfinish: {error}", file=sys.stderr)
                return EXIT_NO_PORT
            application = make_app(self._settings, database, ops)
            server = DrainingServer(application, self._settings.http, hosts=self._hosts(listening))
            server.add_sockets(listening.http)
            ops.listen(listening.ops)
            await ops.start(application, database, server)
            self._jobs = self._start_jobs(database)
            self._listen_to_signals()
            _keep_what_there_is()
            autoreload = Autoreload()
            if self._settings.autoreload:
                autoreload.start()
            self._say_ready(listening)
            ops.watch(database)  # last: what the start takes keeps no request waiting
            await self._stop.wait()
            await autoreload.stop()
            status = await self._drain(application, server, database)
            await ops.stop()
            log.info("stopped")
            return status
        finally:
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
        jobs = Jobs(jobs_of(database, first=first), every_s=every_s)
        jobs.start()
        return jobs

    async def _bring_schema_up(self, database: Database) -> None:
        """An SQLite file belongs to this process, which brings its schema up to date; a server's does not."""
        if not database.backend.belongs_to_process:
            return

        def upgrade() -> None:
            if database.backend.shares_one_connection:  # in memory: no other connection would see it
                with database.writer.engine.begin() as connection:
                    migrate.upgrade_on(connection, version_table=self._settings.database.version_table)
            else:
                migrate.upgrade(self._settings.database)

        await asyncio.get_running_loop().run_in_executor(None, upgrade)

    async def _drain(self, application: Application, server: DrainingServer, database: Database) -> int:
        http = self._settings.http
        end_after(http.grace_s + http.drain_s + CLOSE_S, status=EXIT_CUT_OFF)
        application.settings["draining"] = True
        server.end_keep_alive()
        log.info("stopping: %d requests in flight", server.busy)
        await asyncio.sleep(http.grace_s)
        server.stop()
        give_up_at = time.monotonic() + http.drain_s
        sockets: Sockets = application.settings["sockets"]
        sockets.go_away()
        await server.close_idle()
        application.settings["refuses_requests_since"] = time.time()
        await server.drained(max(0.0, give_up_at - time.monotonic()))
        # Only then, for an answer that is still to come may open one: a write whose client has left runs on.
        await database.idle(max(0.0, give_up_at - time.monotonic()))
        left = max(server.busy, len(database.units), len(database.tasks))
        if left:
            log.error(
                "%d requests were not answered within %g s; they are cut off and undone", left, http.drain_s
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
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a parent has held them back until now

    def _say_ready(self, listening: Listening) -> None:
        if self._parent is None:
            print_banner(self._settings, listening, self._findings)
            notify(READY)
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
            # A parent kills at the second signal, and passes the first one on that the terminal sent to all.
            # A terminal that is closed may send SIGHUP twice, its shell once more.
            is_same = now - self._signalled_at < _SAME_SIGNAL_S or number == signal.SIGHUP
            if is_same or self._parent is not None:
                return
            log.warning("a second signal: stopping at once")
            logging.shutdown()
            os._exit(EXIT_CUT_OFF)
        self._signalled_at = now
        log.info("%s received", signal.Signals(number).name)
        if self._parent is None:
            notify(STOPPING)
        self._stop.set()


def _keep_what_there_is() -> None:
    """Have the collector pass over what stays for as long as the process, which is nearly all at its start.

    Else it looked at each of a hundred thousand objects now and then, and everybody waited for 60 to 80 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, 10, 10)


def print_banner(settings: Settings, listening: Listening, findings: Sequence[Finding] = ()) -> None:
    """Say where the service is to be found, and what keeps it from serving."""
    address = settings.http.address
    host = f"[{address}]" if ":" in address else address
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    print(f"onfinish ({settings.environment}) listens on http://{host}:{listening.port}/", flush=True)
    print(f"  database  {settings.database.shown_url}", flush=True)
    if settings.database.shown_reader_url is not None:
        print(f"  reads     {settings.database.shown_reader_url}", flush=True)
    if settings.http.processes > 1:
        print(f"  processes {settings.http.processes}", flush=True)
    if listening.ops_port is not None:
        print(f"  metrics   http://127.0.0.1:{listening.ops_port}/metrics", flush=True)
    for finding in findings:
        print(_told(finding), flush=True)
    print("  stop with Ctrl-C", flush=True)


def _told(finding: Finding) -> str:
    label = "not ready" if finding.level == "error" else finding.level
    return lines(f"  {label:<10}", finding.message, finding.fix)
