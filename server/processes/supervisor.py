"""The parent of several server processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import warnings

from conf import Settings
from conf.logs import set_up_logs
from db import Database
from db.backends.choose import backend_for
from db.doctor.findings import Finding
from db.engines.engine import make_url
from db.health import first_look
from db.schema.newest import bring_up, newest
from server.app import first_step
from server.edge.listening import CannotListen, listen
from server.monitoring.history import History
from server.monitoring.metrics import GAUGES
from server.monitoring.ops import Ops
from server.monitoring.peers import Peers
from server.monitoring.shared_counters import SharedCounters
from server.processes.event_loop import run_loop
from server.processes.lifecycle import (
    CLOSE_S,
    EXIT_CUT_OFF,
    EXIT_NO_PORT,
    SAME_SIGNAL_S,
    Lifecycle,
    Parent,
    named_by_process,
    print_banner,
    stopping_signals,
)
from server.processes.sd_notify import READY, STOPPING, sd_notify

log = logging.getLogger("onfinish.server")

EXIT_GAVE_UP = 1

_STARTS_MAX = 4
"""Starts that may fail in a row, over 0.7 s, before the start of the server is abandoned."""

_DELAY_S = 0.1
_DELAY_MAX_S = 0.8
"""A process that served is replaced within a second, however often it dies."""

_DELAY_TO_START_MAX_S = 5.0
"""One whose starts fail while others serve is restarted at this interval at most."""

_STABLE_S = 10.0
"""A process that served for so long did not die of its start."""

_HIGHER_LIMIT = "Raise the limit: TasksMax= or LimitNPROC= in the systemd unit, or ulimit -u"

_STARTING_CHECK_S = 0.02
_CHECK_S = 1.0

_CLOSE_S = CLOSE_S + 5.0
"""The time beyond grace and drain after which a process is killed. If it can, it ends by itself before."""


def serve_in_processes(settings: Settings) -> int:
    """Serve with ``http.processes`` processes until SIGTERM, SIGINT or SIGHUP.

    Prints a banner, logs to stderr.

    Returns:
        The worst of their exit statuses; also 1 when they did not start, or could not listen on the port.

    Raises:
        DatabaseError: the database's file could not be brought up to date.
    """
    set_up_logs(settings.log, with_process=True)
    return Supervisor(settings).run()


class Child:
    """One server process, as its parent sees it. Lives from the fork until its end was detected."""

    def __init__(self, pid: int, index: int, link: socket.socket) -> None:
        self.pid = pid
        self.index = index
        self.link = link
        self.started_at = time.monotonic()
        self.is_ready = False


class Supervisor:
    """Starts several server processes, replaces those that die, and stops them. Lives as long as the server.

    All share one listening socket, which it opens before the first fork. With a socket for each
    (``SO_REUSEPORT``) the kernel would choose a process by the client's address, also one that is blocked or
    has just died, and reset the connections in the queue of one that ends; here a free process accepts the
    next.

    It has no event loop, no thread and no connection to the database, which a fork would copy in an undefined
    state. A process detects the end of its parent by a socket between them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._count = settings.http.processes
        self._counters = SharedCounters(self._count)
        self._peers = Peers(self._count)
        self._history = History(self._count)
        self._children: dict[int, Child] = {}  # by index
        self._due: dict[int, float] = {}  # when to start the process of an index
        self._failed = [0] * self._count  # failed starts and early ends in a row
        self._up = False
        self._findings: list[Finding] = []
        self._next_step: str | None = None
        self._stopped_at: float | None = None
        self._killed = False
        self._status = 0
        self._is_decided = False  # the status: how the processes end from now on does not change it

    def run(self) -> int:
        """Serve until a stop signal. Returns the worst exit status of the processes that were stopped."""
        if backend_for(make_url(self._settings.database)).belongs_to_process:
            bring_up(self._settings.database)
        asyncio.run(self._look_at_database())
        try:
            self._listening = listen(self._settings)
        except CannotListen as error:
            print(f"onfinish: {error}", file=sys.stderr)
            return EXIT_NO_PORT
        # Where it was inherited as ignored, the kernel sends no SIGCHLD, and keeps no status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signals = {signal.SIGCHLD, *stopping_signals()}
        # Blocked, they stay pending until sigtimedwait, and in a child until it has handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._due = dict.fromkeys(range(self._count), 0.0)
        while self._due or self._children:
            self._start_due()
            self._look_for_ready()
            came = signal.sigtimedwait(signals, self._wait_s())
            if came is not None and came.si_signo != signal.SIGCHLD:
                self._on_signal(signal.Signals(came.si_signo))
            self._reap()
            self._kill_the_late()
        self._listening.close()
        self._peers.close()
        log.info("all processes have ended")
        return self._status

    async def _look_at_database(self) -> None:
        """Find what is wrong for every process once, before there are any."""
        database = Database(self._settings.database)
        try:
            revision = newest(self._settings.database.models).head
            self._findings = await first_look(database, revision=revision)
            if not self._findings:
                self._next_step = await first_step(database)
        finally:
            await database.close()

    # -- starting

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, at in self._due.items() if at <= now]:
            if self._due.pop(index, None) is not None:  # else the start before it has abandoned all
                self._start(index)

    def _start(self, index: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.ExitStack() as ends:
            try:
                ours, theirs = map(ends.enter_context, socket.socketpair())
                pid = _fork()
            except OSError as error:
                self._could_not_start(index, error)
                return
            ends.pop_all()
        if pid == 0:
            status = EXIT_CUT_OFF
            try:
                ours.close()
                status = self._be_child(index, theirs)
            except BaseException:
                log.exception("a process could not serve")
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(status)  # without the parent's exit handlers
        theirs.close()
        ours.setblocking(False)
        self._children[index] = Child(pid, index, ours)

    def _could_not_start(self, index: int, error: OSError) -> None:
        """Schedule another start: the machine may be short of processes, memory or descriptors now."""
        delay_s = self._next_delay_s(index, longest_s=_DELAY_TO_START_MAX_S)
        if not self._up and self._failed[index] >= _STARTS_MAX:
            log.error("no process could be started (%s); giving up. %s", error.strerror, _HIGHER_LIMIT)
            self._give_up()
            return
        log.error(
            "no process could be started (%s); %d serve, retrying in %.1f s. %s",
            error.strerror,
            len(self._children),
            delay_s,
            _HIGHER_LIMIT,
        )
        self._due[index] = time.monotonic() + delay_s

    def _be_child(self, index: int, link: socket.socket) -> int:
        for other in self._children.values():
            other.link.close()  # else that process would not detect the parent's end while this one lives
        set_up_logs(self._settings.log, with_process=True)
        settings = named_by_process(self._settings)
        ops = Ops(settings, counters=self._counters, peers=self._peers, index=index, history=self._history)
        lifecycle = Lifecycle(settings, ops, Parent(link, self._listening.shared(), first=index == 0))
        return run_loop(lifecycle.run(), settings)

    def _look_for_ready(self) -> None:
        for child in self._children.values():
            if not child.is_ready and _has_reported(child.link):
                child.is_ready = True
        if not self._up and len(self._children) == self._count and self._all_ready:
            self._up = True
            print_banner(self._settings, self._listening, self._findings, next_step=self._next_step)
            sd_notify(READY)

    @property
    def _all_ready(self) -> bool:
        return all(child.is_ready for child in self._children.values())

    def _wait_s(self) -> float:
        if self._all_ready and not self._due:
            return _CHECK_S
        return _STARTING_CHECK_S

    # -- ends

    def _reap(self) -> None:
        for child in list(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, status: int) -> None:
        child.is_ready = child.is_ready or _has_reported(child.link)
        child.link.close()
        del self._children[child.index]
        slot = self._counters.slots[child.index]
        slot.vacate()
        slot.clear(GAUGES)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if self._stopped_at is not None:
            log.log(logging.WARNING if status else logging.INFO, "process %d %s", child.pid, how)
            if not self._is_decided:
                self._status = max(self._status, 128 - status if status < 0 else status)
            return
        delay_s = self._delay_s(child)
        if self._gives_up(child):
            log.error("process %d %s before it served, like those before it; giving up", child.pid, how)
            self._give_up()
            return
        log.error("process %d %s; another replaces it", child.pid, how)
        self._due[child.index] = time.monotonic() + delay_s

    def _delay_s(self, child: Child) -> float:
        """How long to wait before a process is started to replace one that has died."""
        if child.is_ready and time.monotonic() - child.started_at > _STABLE_S:
            self._failed[child.index] = 0
            return 0.0
        longest_s = _DELAY_MAX_S if child.is_ready else _DELAY_TO_START_MAX_S
        return self._next_delay_s(child.index, longest_s=longest_s)

    def _next_delay_s(self, index: int, *, longest_s: float) -> float:
        """Twice the delay before, within limits."""
        self._failed[index] += 1
        return min(longest_s, _DELAY_S * 2.0 ** min(self._failed[index] - 1, 10))

    def _gives_up(self, child: Child) -> bool:
        if child.is_ready or self._failed[child.index] < _STARTS_MAX:
            return False
        return not self._up or not any(other.is_ready for other in self._children.values())

    # -- stopping

    def _give_up(self) -> None:
        self._status, self._is_decided = EXIT_GAVE_UP, True
        self._stop()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopped_at is None:
            log.info("%s received: stopping %d processes", number.name, len(self._children))
            self._stop()
        elif number == signal.SIGHUP or time.monotonic() - self._stopped_at < SAME_SIGNAL_S:
            return  # the same one: see `Lifecycle`
        elif not self._killed:
            log.warning("a second signal: stopping at once")
            self._kill()

    def _stop(self) -> None:
        self._stopped_at = time.monotonic()
        sd_notify(STOPPING)
        self._due.clear()
        self._listening.close()  # each process has its own, and closes it in time
        for child in self._children.values():
            os.kill(child.pid, signal.SIGTERM)

    def _kill_the_late(self) -> None:
        http = self._settings.http
        if self._stopped_at is None or self._killed or not self._children:
            return
        if time.monotonic() - self._stopped_at > http.grace_s + http.drain_s + _CLOSE_S:
            log.error("%d processes did not end in time and are killed", len(self._children))
            self._kill()

    def _kill(self) -> None:
        self._killed = self._is_decided = True
        self._status = max(self._status, EXIT_CUT_OFF)
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)


def _fork() -> int:
    """As `os.fork`. The only thread there may be is the log's, which the child starts anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns where there is a thread
        return os.fork()


def _has_reported(link: socket.socket) -> bool:
    """Whether the process at the other end has reported that it serves; its end alone is no report."""
    try:
        return bool(link.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
