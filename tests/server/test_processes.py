"""Several processes on one port: started, replaced, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.process import ServerProcess, StartServer, exchange, receive, seconds, send
from tests.fixtures.waiting import wait_until

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(start_server: StartServer) -> Iterator[Start]:
    """``start(2, …)``: a server with so many processes. None of them is left at the end."""
    seen: list[psutil.Process] = []
    servers: list[ServerProcess] = []

    def start(processes: int, *arguments: str, **options: Any) -> ServerProcess:
        server = start_server("--processes", str(processes), "--grace-s", "0", *arguments, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen += psutil.Process(server.pid).children()
        server.kill()
    for process in seen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def workers(server: ServerProcess) -> list[int]:
    """The processes that serve."""
    return [child.pid for child in psutil.Process(server.pid).children()]


def serving(server: ServerProcess) -> list[int]:
    """Those of them that answer the others."""
    return [each["pid"] for each in server.request("GET", "/stats").body["processes"] if "pid" in each]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, even if it has not been waited for yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def stop(server: ServerProcess) -> int:
    """Tell it to stop; returns the exit status, once none of its processes is left."""
    pids = workers(server)
    server.send_signal(signal.SIGTERM)
    status = server.wait()
    assert wait_until(lambda: all(map(is_gone, pids)))
    return status


def counted(server: ServerProcess, metric: str) -> float:
    """A number of ``/metrics``, by the beginning of its line."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    [line] = [line for line in text.splitlines() if line.startswith(metric)]
    return float(line.split()[-1])


@pytest.mark.usefixtures("shelves")
def test_all_processes_work_on_one_port_and_one_database(database_url, start, sql):
    """One banner; each process takes its part; what any of them has acknowledged is there, once."""
    server = start(3, url=database_url)
    lines = server.out.splitlines()
    assert len([line for line in lines if "listens on http://" in line]) == 1
    assert "  processes 3" in lines
    assert sorted(serving(server)) == sorted(workers(server))

    def create(number: int) -> int:
        status: int = server.request("POST", "/shelves", {"name": f"shelf {number}"}).status
        return status

    with ThreadPoolExecutor(8) as clients:
        statuses = Counter(clients.map(create, range(60)))

    assert set(statuses) <= {201, 503}
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": statuses[201]}]
    assert statuses[201] > 50
    taken = Counter(re.findall(r"\[(\d+)\] INFO +tornado.access: \d+ POST", server.err))
    assert len(taken) == 3, taken
    series = 'http_server_request_duration_seconds_count{http_request_method="POST",'
    series += 'http_response_status_code="201"'
    # An answer is counted when it has left, and its client may be here before.
    assert wait_until(lambda: counted(server, series) == statuses[201])
    assert counted(server, 'onfinish_units_of_work_total{outcome="kept"') == statuses[201]
    assert counted(server, "onfinish_processes ") == 3
    assert stop(server) == 0
    assert server.refuses_connections()


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_a_process_that_is_killed_is_replaced_and_its_connections_are_gone(database_url, start, sql):
    """Within a second; the others serve on meanwhile; what it has counted stays counted."""
    server = start(2, url=database_url)
    before = workers(server)
    for number in range(6):
        server.request("POST", "/shelves", {"name": f"shelf {number}"})
    victim = before[0]

    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: len(set(workers(server)) - {victim}) == 2, timeout_s=10), server.err
    [successor] = set(workers(server)) - set(before)

    # When it was made, not when this test came to look on a busy machine.
    assert psutil.Process(successor).create_time() - killed_at < 1
    assert all(server.request("GET", "/shelves").status == 200 for _ in range(10))
    assert wait_until(lambda: sorted(serving(server)) == sorted(workers(server)), timeout_s=10)
    assert victim not in workers(server)
    assert f"process {victim} was killed by SIGKILL; another replaces it" in server.err
    assert counted(server, 'onfinish_units_of_work_total{outcome="kept"') == 6
    assert counted(server, "onfinish_process_starts_total") == 3
    assert counted(server, "onfinish_processes ") == 2
    names = f"SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'onfinish {victim}'"
    assert wait_until(lambda: sql(names) == [{"n": 0}])
    assert stop(server) == 0


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_process_that_is_told_to_stop_answers_first_and_is_replaced(database_url, start, sql):
    """One after the other, they can be made anew without an error to any client."""
    server = start(2, url=database_url)
    before = workers(server)
    with sql.connect() as lock, contextlib.ExitStack() as stack:
        lock.execute("BEGIN IMMEDIATE")
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(4)]
        for number, connection in enumerate(connections):
            send(connection, "POST", "/shelves", {"name": f"shelf {number}"})
        assert wait_until(lambda: in_flight(server) == 5)  # and the one that asks
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        lock.execute("ROLLBACK")

        assert [receive(connection).status for connection in connections] == [201] * 4

    assert wait_until(lambda: not set(before) & set(workers(server)), timeout_s=10)
    assert wait_until(lambda: len(serving(server)) == 2, timeout_s=10)
    assert server.request("GET", "/shelves").status == 200
    assert stop(server) == 0


def in_flight(server: ServerProcess) -> int:
    """How many requests all processes have in hand, the one that asks included."""
    return sum(int(each["requests_in_flight"]) for each in server.request("GET", "/stats").body["processes"])


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_requests_in_flight_are_answered_by_every_process(database_url, start, sql):
    """SIGTERM to the parent alone: new connections are refused, all that was begun is answered, exit 0."""
    server = start(2, url=database_url)
    with sql.connect() as lock, contextlib.ExitStack() as stack:
        lock.execute("BEGIN IMMEDIATE")
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(4)]
        for number, connection in enumerate(connections):
            send(connection, "POST", "/shelves", {"name": f"shelf {number}"})
        assert wait_until(lambda: in_flight(server) == 5)
        server.send_signal(signal.SIGTERM)
        assert wait_until(server.refuses_connections)
        lock.execute("ROLLBACK")

        assert [receive(connection).status for connection in connections] == [201] * 4

    assert server.wait() == 0
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 4}]


@pytest.mark.usefixtures("shelves")
def test_what_is_not_answered_in_time_is_undone_and_the_worst_status_is_told(
    database_url, start, sql, backend
):
    """One process has a request that waits for a lock, the other has none: exit 1, for the one of them."""
    server = start(2, "--drain-s", "0.3", url=database_url)
    lock = "BEGIN IMMEDIATE" if backend == "sqlite" else "BEGIN; LOCK TABLE shelves IN EXCLUSIVE MODE"
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(lock)
        with contextlib.closing(server.connect()) as waiting:
            send(waiting, "POST", "/shelves", {"name": "Store"})
            assert wait_until(lambda: in_flight(server) == 2)

            assert stop(server) == 1

    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 0}]
    statuses = re.findall(r"process \d+ ended with status (\d)", server.err)
    assert sorted(statuses) == ["0", "1"]


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_second_signal_ends_all_at_once(database_url, start, sql):
    """Whatever is in flight, and however long it might take."""
    server = start(2, "--drain-s", "60", url=database_url)
    pids = workers(server)
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})
        assert wait_until(lambda: in_flight(server) == 2)
        server.send_signal(signal.SIGINT)
        assert wait_until(lambda: "SIGINT received: stopping 2 processes" in server.err)
        time.sleep(0.3)
        server.send_signal(signal.SIGINT)

        assert seconds(server.wait) < 5

    assert server.wait() == 1
    assert wait_until(lambda: all(map(is_gone, pids)))


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_no_process_outlives_its_parent(database_url, start, sql):
    """The parent is killed: what is in flight is answered, then all of them end, and the port is free."""
    server = start(2, url=database_url)
    pids = workers(server)
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})
        assert wait_until(lambda: in_flight(server) == 2)
        server.kill()
        assert wait_until(server.refuses_connections)
        lock.execute("ROLLBACK")

        assert receive(waiting).status == 201

    assert wait_until(lambda: all(map(is_gone, pids)), timeout_s=5)


def dying_at_birth(folder: Path, *, times: int) -> dict[str, str]:
    """An environment in which a forked process ends at once, so many times."""
    (folder / "births").touch()
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import os

            def born():
                with open({str(folder / "births")!r}, "a+") as births:
                    births.write("x")
                    births.flush()
                    if births.tell() <= {times}:
                        os._exit(3)

            os.register_at_fork(after_in_child=born)
        """)
    )
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": f"{folder}{os.pathsep}{root}"}


def test_processes_that_die_at_once_are_given_up(tmp_path, start):
    """No banner and no endless loop: a few attempts with pauses between them, a line for each, exit 1."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    # Six: some of them end when it has been given up already, and their status is not what is told.
    server = start(6, environ=dying_at_birth(tmp_path, times=1000), url=url, listens=False)

    assert server.wait() == 1
    assert server.out == ""
    assert "ended with status 3 before it served, like those before it; giving up" in server.err
    assert 4 <= len((tmp_path / "births").read_text()) <= 6 * 4


def test_a_process_that_dies_at_its_first_start_is_tried_again(tmp_path, start):
    """The banner comes when all serve."""
    server = start(2, environ=dying_at_birth(tmp_path, times=3), url=f"sqlite:///{tmp_path / 'x.db'}")

    assert len(serving(server)) == 2
    assert len(re.findall("another replaces it", server.err)) == 3
    assert stop(server) == 0


@pytest.mark.parametrize(("processes", "abstract"), [(1, False), (2, True)])
def test_systemd_is_told_when_it_serves_and_when_it_stops(processes, abstract, tmp_path, start):
    """READY=1 when connections are taken, STOPPING=1 at the signal; each once, from the main process."""
    address = f"\0onfinish-test-{os.getpid()}-{processes}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.bind(address)
        systemd.settimeout(20)
        environ = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        server = start(processes, environ=environ, url=f"sqlite:///{tmp_path / 'x.db'}")

        assert told(systemd) == ("READY=1", server.pid)
        assert server.request("GET", "/livez").status == 200
        server.send_signal(signal.SIGTERM)
        assert told(systemd) == ("STOPPING=1", server.pid)

        assert server.wait() == 0
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def told(systemd: socket.socket) -> tuple[str, int]:
    """What was said, and by which process, as systemd asks the kernel."""
    text, ancillary, _, _ = systemd.recvmsg(100, socket.CMSG_SPACE(12))
    [(_, _, credentials)] = ancillary
    return text.decode(), int.from_bytes(credentials[:4], "little")


def held_by_each(server: ServerProcess) -> list[int]:
    """How many connections each of its processes holds."""
    return [
        sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.Process(pid).net_connections())
        for pid in workers(server)
    ]


@on_sqlite
def test_one_connection_after_the_other_goes_to_a_free_process(database_url, start):
    """A burst, as a proxy opens it, does not end up in one process."""
    server = start(2, url=database_url)
    found = []
    for _ in range(5):  # on a busy machine one of them may not come to run meanwhile, and is not free then
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(30)]
            for connection in connections:
                assert exchange(connection, "GET", "/livez").status == 200
            found.append(held_by_each(server))
        assert sum(found[-1]) >= 30
        if min(found[-1]) >= 3:
            break

    assert min(found[-1]) >= 3, found


def test_a_port_that_is_taken_is_told_before_any_process_is_started(start, tmp_path):
    """As with one process: one line, exit 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        url = f"sqlite:///{tmp_path / 'x.db'}"

        server = start(2, "--port", port, url=url, listens=False, environ={"PYTHONWARNINGS": ""})

        assert server.wait() == 1
    assert "Address already in use. Choose another port with --port" in server.err
    assert server.out == ""


def test_a_file_that_is_new_gets_its_schema_once(start, tmp_path):
    """The parent brings it up to date, before there is a child that could interfere."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    server = start(2, url=url)

    assert server.request("GET", "/readyz").status == 200
    assert RawSql(url)("SELECT key FROM idempotency_keys") == []
    assert stop(server) == 0


PR_CAPBSET_DROP, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 24, 21, 24


def obey_limits() -> None:
    """Give up what lets root make processes without limit, and no right to files. Called before the exec."""
    if os.getuid() != 0:
        return
    for capability in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
    os.setresuid(64_613, 0, 0)  # a user of its own, whose processes are counted


@pytest.fixture
def forbidden(tmp_path: Path) -> Path:
    """A file: while it is there, the kernel lets a server with `limited` make no process."""
    return tmp_path / "forbidden"


@pytest.fixture
def limited(forbidden: Path) -> dict[str, Any]:
    """Options of a server whose limit of processes is set, and lifted, just before it forks."""
    (forbidden.parent / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import os, resource

            def set_limit():
                hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
                soft = 0 if os.path.exists({str(forbidden)!r}) else hard
                resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))

            os.register_at_fork(before=set_limit)
        """)
    )
    root = Path(__file__).resolve().parents[2]
    return {
        "environ": {"PYTHONPATH": f"{forbidden.parent}{os.pathsep}{root}"},
        "popen": {"preexec_fn": obey_limits},
        "url": f"sqlite:///{forbidden.parent / 'x.db'}",
    }


@pytest.mark.slow
def test_a_fork_that_fails_is_tried_again_and_the_service_goes_on(start, limited, forbidden):
    """No process may be made for a while: the others serve on, it is logged, and tried until it works."""
    server = start(2, **limited)
    victim, other = workers(server)
    forbidden.touch()

    os.kill(victim, signal.SIGKILL)

    assert wait_until(lambda: server.err.count("process could be started (") >= 2, timeout_s=10), server.err
    assert "Resource temporarily unavailable" in server.err
    assert server.request("GET", "/readyz").status == 200
    assert workers(server) == [other]
    forbidden.unlink()
    assert wait_until(lambda: len(workers(server)) == 2, timeout_s=10)
    assert wait_until(lambda: len(serving(server)) == 2, timeout_s=10)
    assert stop(server) == 0


@pytest.mark.slow
def test_where_no_process_can_be_made_the_start_is_given_up(start, limited, forbidden):
    """A few attempts, the reason and the way out, exit 1."""
    forbidden.touch()

    server = start(2, listens=False, **limited)

    assert server.wait() == 1
    assert server.out == ""
    assert "TasksMax" in server.err
    assert "giving up" in server.err
    assert "Traceback" not in server.err


@pytest.mark.slow
def test_processes_are_replaced_where_sigchld_was_ignored(start, tmp_path):
    """A program that ignores SIGCHLD passes that on to what it starts: there is no end to wait for then."""

    def ignore_ends() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    server = start(2, popen={"preexec_fn": ignore_ends}, url=f"sqlite:///{tmp_path / 'x.db'}")
    before = workers(server)

    os.kill(before[0], signal.SIGKILL)

    assert wait_until(lambda: len(set(workers(server)) - {before[0]}) == 2, timeout_s=10), server.err
    assert wait_until(lambda: len(serving(server)) == 2, timeout_s=10)
    assert stop(server) == 0
    assert f"process {before[0]} was killed by SIGKILL; another replaces it" in server.err


def names_of_sockets(server: ServerProcess) -> list[str]:
    """The addresses at which a process of this machine could connect to one of the server's, TCP apart."""
    inodes = set()
    for pid in (server.pid, *workers(server)):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(fd)))
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [fields[7] for fields in lines if len(fields) > 7 and fields[6] in inodes]


def test_no_other_program_can_ask_a_process_for_its_state(start, tmp_path):
    """Their answers have routes and ids of requests in them, which are not for every local user."""
    server = start(2, url=f"sqlite:///{tmp_path / 'x.db'}")
    assert len(serving(server)) == 2

    overheard = []
    for name in names_of_sockets(server):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(5)
            stranger.connect(name.replace("@", "\0", 1))
            overheard.append(stranger.recv(1_000_000))

    assert overheard == []
    assert stop(server) == 0


def test_a_process_that_is_stuck_is_told_as_such_and_answers_when_it_goes_on(start, tmp_path):
    """The others answer at once; what was asked meanwhile delays none."""
    server = start(2, url=f"sqlite:///{tmp_path / 'x.db'}")
    stuck, other = workers(server)
    os.kill(stuck, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert serving(server) == [other]
    finally:
        os.kill(stuck, signal.SIGCONT)

    assert wait_until(lambda: sorted(serving(server)) == sorted([stuck, other]), timeout_s=10)
    assert stop(server) == 0


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_hangup_stops_the_processes_in_order(database_url, start, sql):
    """SIGHUP, as a terminal sends it that is closed: what is in flight is answered, exit 0."""
    server = start(2, url=database_url)
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})
        assert wait_until(lambda: in_flight(server) == 2)
        for pid in (server.pid, *workers(server)):
            os.kill(pid, signal.SIGHUP)
        assert wait_until(server.refuses_connections)
        lock.execute("ROLLBACK")

        assert receive(waiting).status == 201

    assert server.wait() == 0


def ignore_hangups() -> None:
    """What ``nohup`` does before it becomes the command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_a_hangup_is_nothing_to_processes_under_nohup(start, tmp_path):
    """Neither to the parent nor to the others."""
    server = start(2, popen={"preexec_fn": ignore_hangups}, url=f"sqlite:///{tmp_path / 'x.db'}")
    before = workers(server)

    for pid in (server.pid, *before):
        os.kill(pid, signal.SIGHUP)
    time.sleep(1.0)

    assert server.runs()
    assert sorted(serving(server)) == sorted(before)
    assert "SIGHUP" not in server.err
    assert stop(server) == 0
