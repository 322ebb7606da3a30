"""docs/deploy.md, tried: each of its configurations, as it is printed there."""

from __future__ import annotations

import configparser
import contextlib
import http.client
import re
import signal
import socket
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from conf import load_settings
from conf.names import names
from server.cli import find_commands
from server.monitoring.metrics import FAMILIES
from server.processes.lifecycle import CLOSE_S
from tests.fixtures.pgbouncer import MakeBouncer
from tests.fixtures.postgres import PostgresCluster, free_port
from tests.fixtures.process import ServerProcess, StartServer
from tests.fixtures.waiting import wait_until
from tests.server.test_cli import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

StartNginx = Callable[..., int]


def block(language: str, beginning: str) -> str:
    """A configuration of the page."""
    [found] = [
        text
        for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
        if text.startswith(beginning)
    ]
    return str(found)


# -- the page itself


def test_the_settings_that_the_page_names_exist():
    """As variables, and by their paths."""
    variables = {name.variable for name in names().values()}
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+|PROCESSES)(?:=[^`]*)?`", PAGE))
    unit = re.search(
        r"^Environment=(.*)$", block("ini", "# /etc/systemd/system/onfinish.service"), re.MULTILINE
    )
    assert unit is not None
    named |= {each.partition("=")[0] for each in unit[1].split()}

    assert len(named) > 15
    assert named - {"SO_REUSEPORT"} <= variables
    assert {f"http.{each}" for each in re.findall(r"http\.([a-z_]+)", PAGE)} <= set(names())


def test_the_metrics_that_the_page_names_are_those_that_are_shown():
    """All of them, with their labels."""
    table = PAGE[PAGE.index("| metric | labels |") :]
    for family in FAMILIES:
        stem = family.name if f"`{family.name}`" in table else f"…_{family.name.rpartition('connection_')[2]}"
        [row] = [row for row in table.splitlines() if f"`{stem}`" in row]
        assert all(f"`{label}`" in row for label in family.labels), row


# -- containers, and what is the same in a unit


def longest_stop_s() -> float:
    """How long a stop takes at most, with the settings of production."""
    http = tomllib.loads((ROOT / "conf" / "production.toml").read_text())["http"]
    return float(http["grace_s"] + http["drain_s"] + CLOSE_S)


def url_of_the_containers() -> str:
    """`DATABASE_URL` as the compose file has it, with a password."""
    [url] = re.findall(r" DATABASE_URL=(postgresql://\S+)", block("yaml", "# compose.yaml"))
    return str(url).replace("…", "x")


def commands_of(unit: str) -> list[str]:
    """What a unit runs, one after the other."""
    return re.findall(r"^ExecStart=/srv/onfinish/\.venv/bin/python -m server (\w+)$", unit, re.MULTILINE)


def test_the_schema_and_a_check_come_before_the_start():
    """In the unit and among the containers; both are commands."""
    unit = block("ini", "# /etc/systemd/system/onfinish-migrate.service")
    services = yaml.safe_load(block("yaml", "# compose.yaml"))["services"]

    assert commands_of(unit) == ["migrate", "check"]
    assert [services[name]["command"] for name in ("migrate", "check")] == [["migrate"], ["check"]]
    assert {"migrate", "check", "serve"} <= set(find_commands())
    done = "service_completed_successfully"
    assert services["check"]["depends_on"] == {"migrate": {"condition": done}}
    assert services["onfinish"]["depends_on"] == {"check": {"condition": done}}


def test_the_containers_have_settings_that_exist():
    """Variables of the image and of the service, the port, the time for a stop, the page that is asked."""
    image = block("dockerfile", "# Containerfile")
    service = yaml.safe_load(block("yaml", "# compose.yaml"))["services"]["onfinish"]
    [environment] = re.findall(r"^ENV (.*)$", image, re.MULTILINE)
    variables = dict(each.split("=", 1) for each in environment.split())

    environ = {**variables, **service["environment"], "DATABASE_URL": url_of_the_containers()}
    settings = load_settings(environ=environ)

    others = {"MALLOC_ARENA_MAX", "PYTHONDONTWRITEBYTECODE"}
    assert {*variables, *service["environment"]} - others <= {name.variable for name in names().values()}
    assert (settings.environment, settings.http.address) == ("production", "0.0.0.0")
    assert f"EXPOSE {settings.http.port}\n" in image
    assert f"http://127.0.0.1:{settings.http.port}/livez" in image
    assert image.startswith(f"# {service['build']['dockerfile']}\n")  # Docker alone looks for a Dockerfile
    assert service["ports"] == [f"127.0.0.1:{settings.http.port}:{settings.http.port}"]
    assert float(service["stop_grace_period"].removesuffix("s")) > longest_stop_s()
    [extras] = re.findall(r"'\.\[(.*)\]'", image)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(extras.split(",")) <= set(setup["options.extras_require"])


def test_the_containers_url_passes_the_check_that_the_service_waits_for(
    own_postgres_cluster: Callable[..., PostgresCluster],
):
    """In production; a folder stands for the volume, an address that is not loopback for a name."""
    cluster = own_postgres_cluster(durable=True, options={"listen_addresses": "127.0.0.1,127.0.0.2"})
    url = (
        url_of_the_containers()
        .replace("onfinish:x", f"{cluster.user}:{cluster.password}")
        .replace("@postgres/", f"@127.0.0.2:{cluster.port}/")
        .replace("/var/run/postgresql", f"{cluster.folder}&port={cluster.port}")
        .replace("/onfinish?", f"/{cluster.create_database()}?")
    )

    done = [run(command, ENVIRONMENT="production", DATABASE_URL=url) for command in ("migrate", "check")]

    assert [each.status for each in done] == [0, 0], done


def test_prometheus_asks_the_port_that_the_service_has_for_it():
    services = yaml.safe_load(block("yaml", "# compose.yaml"))["services"]
    [job] = yaml.safe_load(block("yaml", "# prometheus.yml"))["scrape_configs"]

    port = services["onfinish"]["environment"]["OPS_PORT"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert services["prometheus"]["network_mode"] == "service:onfinish"


@pytest.mark.debian
def test_promtool_takes_the_scrape_configuration(tmp_path):
    file = tmp_path / "prometheus.yml"
    file.write_text(block("yaml", "# prometheus.yml"))

    done = subprocess.run(
        ["promtool", "check", "config", file], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


# -- systemd


@pytest.mark.debian
@pytest.mark.parametrize("name", ["onfinish", "onfinish-migrate"])
def test_systemd_takes_the_unit(name, tmp_path):
    """``systemd-analyze verify``, with paths that are there; not one word of complaint."""
    unit = block("ini", f"# /etc/systemd/system/{name}.service")
    for path, real in (
        ("/srv/onfinish/.venv/bin/python", "/usr/bin/env"),
        ("/etc/onfinish.env", "/dev/null"),
        ("/srv/onfinish", str(tmp_path)),
        ("User=onfinish", "User=daemon"),
    ):
        assert path in unit
        unit = unit.replace(path, real)
    file = tmp_path / f"{name}.service"
    file.write_text(unit)

    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True
    )

    told = [line for line in (result.stdout + result.stderr).splitlines() if file.name in line]
    assert result.returncode == 0, result.stderr
    assert told == []


@pytest.mark.debian
def test_the_unit_waits_for_longer_than_a_stop_may_take():
    """Else systemd kills what is still being answered."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("ini", "# /etc/systemd/system/onfinish.service"))

    assert float(unit["Service"]["TimeoutStopSec"]) > longest_stop_s()


# -- nginx


@pytest.fixture
def start_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNginx]:
    """``start_nginx(8001, 8002)``: the page's nginx before two ports of ours. Gives its own port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*upstreams: int) -> int:
        folder = tmp_path_factory.mktemp("nginx")
        port = free_port()
        text = block("nginx", "# in the http block").replace("listen 80;", f"listen 127.0.0.1:{port};")
        for given, real in zip(("127.0.0.1:8888", "127.0.0.2:8888"), upstreams, strict=True):
            assert given in text
            text = text.replace(given, f"127.0.0.1:{real}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log {folder}/access.log;\n{temporary}\n{text}\n}}\n"
        )
        command = ["/usr/sbin/nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        checked = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        assert wait_until(lambda: listens(port), timeout_s=10), (folder / "error.log").read_text()
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Whether a port takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fetch(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
    """One request over a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        return response.status, response.read().decode()


def connections_to(server: ServerProcess) -> int:
    """How many connections a server has taken and not ended."""
    own = [
        each
        for each in psutil.Process(server.pid).net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == server.port
    ]
    return len(own)


@pytest.mark.debian
@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_requests_through_nginx(
    database_url, start_server: StartServer, start_nginx: StartNginx, unused_port
):
    """The client's address, access to the metrics, a connection that is kept."""
    server = start_server("--trusted-proxies", "127.0.0.1", "--grace-s", "0", url=database_url)
    nginx = start_nginx(server.port, server.port)

    for number in range(20):
        status, _ = fetch(nginx, "POST", "/shelves", f'{{"name": "{number}"}}', X_Forwarded_For="203.0.113.9")
        assert status == 201

    assert connections_to(server) <= 4
    # The client's own tale comes first in the header, the address that nginx saw last; that one counts.
    assert re.search(r"201 POST /shelves \((127\.0\.0\.1|203\.0\.113\.9)\)", server.err)
    assert fetch(nginx, "GET", "/metrics")[0] == 404
    assert fetch(nginx, "GET", "/stats")[0] == 404
    assert server.request("GET", "/stats").status == 200
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.debian
@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_server_that_stops_behind_nginx_costs_no_request(
    database_url, start_server: StartServer, start_nginx: StartNginx
):
    """Two servers, clients all the time, one is stopped and the other serves on: all are answered."""
    one, other = (start_server("--grace-s", "0.5", url=database_url) for _ in range(2))
    nginx = start_nginx(one.port, other.port)
    statuses: list[int] = []
    ended = threading.Event()

    def client(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            statuses.append(fetch(nginx, "POST", "/shelves", f'{{"name": "{number} {turn}"}}')[0])
            statuses.append(fetch(nginx, "GET", "/shelves")[0])

    clients = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for each in clients:
        each.start()
    time.sleep(0.5)
    one.send_signal(signal.SIGTERM)
    assert one.wait() == 0
    time.sleep(0.5)
    ended.set()
    for each in clients:
        each.join()

    assert len(statuses) > 20
    assert set(statuses) == {201, 200}


@pytest.mark.debian
def test_nginx_does_not_repeat_a_write_whose_answer_was_lost(start_nginx: StartNginx):
    """Both servers take the request and end the connection: a GET is tried at the other, a POST is not."""
    taken: list[bytes] = []

    def take(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(5)
                    if received := connection.recv(65536):
                        taken.append(received.partition(b" ")[0])

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        for each in sockets:
            thread = threading.Thread(target=take, args=(each,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(each.shutdown, socket.SHUT_RDWR)  # which wakes it
        nginx = start_nginx(*(each.getsockname()[1] for each in sockets))

        assert fetch(nginx, "POST", "/shelves", '{"name": "Store"}')[0] == 502
        assert taken == [b"POST"]
        time.sleep(4)  # fail_timeout, which nginx counts in whole seconds
        assert fetch(nginx, "GET", "/shelves")[0] == 502
        assert taken == [b"POST", b"GET", b"GET"]


# -- PgBouncer


@pytest.mark.debian
@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_a_pgbouncer_without_tls_is_reached_with_the_pages_sslmode_alone(
    database_url, make_bouncer: MakeBouncer
):
    """`check`, as the step of a deployment, in production."""
    url = make_bouncer(pool_mode="transaction").url_of(database_url)
    [named] = set(re.findall(r"URL\nsays `\?(sslmode=\w+)`", PAGE))

    refused, taken = (
        run("check", ENVIRONMENT="production", DATABASE_POOLER="pgbouncer", DATABASE_URL=each)
        for each in (url, f"{url}?{named}")
    )

    assert (refused.status, "SSL" in refused.out) == (1, True), refused.out
    assert "it can begin a transaction" not in refused.out
    assert "it can begin a transaction" in taken.out


@pytest.mark.debian
@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_two_processes_behind_the_pages_pgbouncer(
    database_url, start_server: StartServer, make_bouncer: MakeBouncer, sql
):
    """Its settings as they are printed, but for where it listens and which users may connect."""
    ini = configparser.ConfigParser()
    ini.read_string(block("ini", "# /etc/pgbouncer/pgbouncer.ini"))
    settings = dict(ini["pgbouncer"])
    for ours in ("listen_addr", "listen_port", "auth_file"):
        settings.pop(ours)
    bouncer = make_bouncer(**settings)
    server = start_server(
        "--processes",
        "2",
        "--grace-s",
        "0",
        url=bouncer.url_of(database_url),
        environ={"DATABASE_POOLER": "pgbouncer"},
    )

    statuses = [server.request("POST", "/shelves", {"name": str(number)}).status for number in range(10)]

    assert statuses == [201] * 10
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 10}]
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
