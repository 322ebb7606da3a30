"""The life of the server process: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import time

from tornado import autoreload
from tornado.netutil import bind_sockets
from tornado.web import Application

from conf import Settings
from conf.logs import set_up_logs
from db import Database, migrate
from server.app import make_app
from server.http import DrainingServer

log = logging.getLogger("onfinish.server")

EXIT_OK, EXIT_CUT_OFF, EXIT_NO_PORT = 0, 1, 1

_SAME_SIGNAL_S = 0.2
"""One Ctrl-C comes twice where a wrapper passes it on to a process that the terminal told already."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Prints a banner with the URL, logs to stderr.

    Returns:
        The exit status: 0 when every request in flight was answered, 1 when ``http.drain_s`` ran out
        first, or when the port could not be had.

    Raises:
        DatabaseError: the database's file could not be brought up to date.
    """
    set_up_logs(settings.log)
    try:
        return asyncio.run(Lifecycle(settings).run(), debug=settings.debug)
    except KeyboardInterrupt:  # a second one: it ends at once
        return EXIT_CUT_OFF


class Lifecycle:
    """One server process from its start to its end. Lives as long as `run`.

    On the first SIGTERM or SIGINT ``/readyz`` turns to 503; for ``http.grace_s`` new connections are still
    taken, until the load balancer has noticed; then none are, and what is in flight has ``http.drain_s``
    to be answered. A second signal ends it at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._signalled_at: float | None = None

    async def run(self) -> int:
        """Serve until told to stop; returns the exit status."""
        http = self._settings.http
        database = Database(self._settings.database)
        try:
            await self._bring_schema_up(database)
            try:
                sockets = bind_sockets(http.port, http.address)
            except OSError as error:
                print(
                    f"onfinish: cannot listen on {http.address}:{http.port}: {_reason(error)}",
                    file=sys.stderr,
                )
                return EXIT_NO_PORT
            application = make_app(self._settings, database)
            server = DrainingServer(application, http)
            server.add_sockets(sockets)
            self._listen_to_signals()
            port = sockets[0].getsockname()[1]
            self._print_banner(port)
            if self._settings.autoreload:
                autoreload.start()
            await self._stop.wait()
            return await self._drain(application, server, database)
        finally:
            await database.close()

    async def _bring_schema_up(self, database: Database) -> None:
        """An SQLite file belongs to this process, which brings its schema up to date; a server's does not."""
        if not database.dialect.belongs_to_process:
            return

        def upgrade() -> None:
            if database.dialect.shares_one_connection:  # in memory: no other connection would see it
                with database.writer.engine.begin() as connection:
                    migrate.upgrade_on(connection)
            else:
                migrate.upgrade(self._settings.database)

        await asyncio.get_running_loop().run_in_executor(None, upgrade)

    async def _drain(self, application: Application, server: DrainingServer, database: Database) -> int:
        http = self._settings.http
        application.settings["draining"] = True
        server.end_keep_alive()
        log.info("stopping: %d requests in flight", server.busy)
        await asyncio.sleep(http.grace_s)
        server.stop()
        application.settings["refuses_requests_since"] = time.time()
        give_up_at = time.monotonic() + http.drain_s
        await server.drained(http.drain_s)
        # Only then, for an answer that is still to come may open one: a write whose client has left runs on.
        await database.idle(max(0.0, give_up_at - time.monotonic()))
        left = max(server.busy, len(database.units))
        if left:
            log.error(
                "%d requests were not answered within %g s; they are cut off and undone", left, http.drain_s
            )
        await database.close()
        await server.close_all_connections()
        log.info("stopped")
        return EXIT_CUT_OFF if left else EXIT_OK

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._signalled_at is not None:
            if now - self._signalled_at < _SAME_SIGNAL_S:
                return
            log.warning("a second signal: stopping at once")
            logging.shutdown()
            os._exit(EXIT_CUT_OFF)
        self._signalled_at = now
        log.info("%s received", signal.Signals(number).name)
        self._stop.set()

    def _print_banner(self, port: int) -> None:
        address = self._settings.http.address
        host = f"[{address}]" if ":" in address else address
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        print(f"onfinish ({self._settings.environment}) listens on http://{host}:{port}/", flush=True)
        print(f"  database  {self._settings.database.shown_url}", flush=True)
        print("  stop with Ctrl-C", flush=True)


def _reason(error: OSError) -> str:
    """Why the port could not be had, and the way out."""
    if isinstance(error, socket.gaierror):  # whose numbers are no errno
        return f"{error.strerror}. Give an address of this machine with --address"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{os.strerror(error.errno)}. Give an address of this machine with --address"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{reason}. Choose another port with --port, or 0 for a free one"
