"""Which hosts are served: against web pages whose name is made to point to this machine (DNS rebinding)."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from typing import Any

import pytest

from conf import SettingsError, load_settings
from tests.fixtures.databases import RawSql
from tests.fixtures.process import ServerProcess, StartServer
from tests.fixtures.service import create_shelves
from tests.server.test_cli import run


@pytest.fixture
def url(tmp_path: Any) -> str:
    """A database: which one makes no difference here."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    create_shelves(RawSql(url))
    return url


@pytest.fixture
def server(start_server: StartServer, url: str) -> ServerProcess:
    """As a developer starts it, on loopback, with nothing said of hosts."""
    return start_server("--port", "0", "--ops-port", "0", environ={"ENVIRONMENT": "development"}, url=url)


def ask(
    port: int, path: str, host: str | None, *headers: str, method: str = "GET", version: str = "HTTP/1.1"
) -> tuple[int, bytes]:
    """Status and body of an answer to a request with this Host, None for no such header."""
    head = [f"{method} {path} {version}", *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1"))
        with contextlib.closing(http.client.HTTPResponse(connection, method=method)) as response:
            response.begin()
            return response.status, response.read()


def ops_port(server: ServerProcess) -> int:
    """The port of ``/metrics`` and ``/stats``."""
    match = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", server.out)
    assert match is not None
    return int(match[1])


PAGES = [
    ("GET", "/"),
    ("POST", "/shelves"),
    ("HEAD", "/shelves"),
    ("OPTIONS", "/shelves"),
    ("DELETE", "/shelves/1"),
    ("POST", "/books"),
    ("GET", "/stats"),
    ("GET", "/metrics"),
    ("GET", "/compare"),
    ("GET", "/openapi.json"),
    ("GET", "/no-such-page"),
    ("GET", "/livez/"),
    ("GET", "/stats?/livez"),
]


def test_no_page_is_shown_to_another_host(server: ServerProcess):
    """Each is a 403, what is not there included, in the form of every other error."""
    for method, path in PAGES:
        status, body = ask(server.port, path, f"evil.example:{server.port}", method=method)

        assert status == 403, (method, path)
        if method != "HEAD":
            problem = json.loads(body)
            assert problem["detail"].startswith("this Host is not one that is served")
            assert (problem["title"], problem["outcome"]) == ("Forbidden", "not_applied")
            assert b"evil" not in body
    assert "'evil.example:" in server.err


def test_nothing_is_written_for_another_host(server: ServerProcess):
    """Also where the whole body is there."""
    body = '{"name": "Store"}'
    headers = (f"Content-Length: {len(body)}", "Content-Type: application/json")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(
            "\r\n".join(["POST /shelves HTTP/1.1", "Host: evil.example", *headers, "", body]).encode()
        )
        assert connection.recv(12) == b"HTTP/1.1 403"

    assert server.request("GET", "/shelves").body["items"] == []


def test_a_websocket_is_refused_too(server: ServerProcess):
    """Tornado compares its Origin with the Host: for a rebound name both are the same."""
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

    status, _ = ask(server.port, "/x", "evil.example", "Origin: http://evil.example", *upgrade, key)

    assert status == 403


OWN = ("localhost", "LocalHost", "localhost.", "127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]")
OTHERS = (
    "localhost.evil.example",
    "evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.2",
    "[::2]",
    "0.0.0.0",
    "localhost..",
    "localhost@evil.example",
    "",
)


def test_this_machines_own_names_are_served_and_no_others(server: ServerProcess):
    """Whatever the port, which a tunnel may have changed; with the root's dot, in any case and spelling."""
    own = [host + port for host in OWN for port in ("", ":8888", ":1", ":")]
    others = [host + port for host in OTHERS for port in ("", f":{server.port}")]

    assert {host: ask(server.port, "/shelves", host)[0] for host in own} == dict.fromkeys(own, 200)
    assert [host for host in others if ask(server.port, "/shelves", host)[0] not in (400, 403)] == []


def test_the_targets_own_host_counts_where_there_is_one(server: ServerProcess):
    """``GET http://host/path``: the header is not heard then, https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2"""
    assert ask(server.port, "http://evil.example/shelves", "localhost")[0] == 403
    assert ask(server.port, "http://localhost/shelves", "evil.example")[0] == 200


def test_what_a_proxy_would_forward_is_not_heard(server: ServerProcess):
    """A page's script may write such headers as it likes."""
    forwarded = ("X-Forwarded-Host: localhost", "Forwarded: host=localhost", "X-Host: localhost")

    assert ask(server.port, "/shelves", "evil.example", *forwarded)[0] == 403
    assert ask(server.port, "/shelves", "localhost", "X-Forwarded-Host: evil.example")[0] == 200


def test_probes_are_answered_whatever_the_host(server: ServerProcess):
    """HAProxy sends none, Kubernetes the pod's address."""
    for path in ("/livez", "/readyz", "/livez?x"):
        assert ask(server.port, path, "evil.example")[0] == 200
        assert ask(server.port, path, "")[0] == 200
        assert ask(server.port, path, None, version="HTTP/1.0")[0] == 200


def test_no_host_is_another_host(server: ServerProcess):
    """HTTP/1.0 may have none; HTTP/1.1 without one is malformed, and with two."""
    assert ask(server.port, "/shelves", None, version="HTTP/1.0")[0] == 403
    assert ask(server.port, "/shelves", None)[0] == 400
    assert ask(server.port, "/shelves", "localhost", "Host: localhost")[0] == 400


def test_the_ops_port_has_hosts_of_its_own(server: ServerProcess, start_server: StartServer, url: str):
    """With the same default."""
    for path in ("/metrics", "/stats", "/x"):
        assert ask(ops_port(server), path, "evil.example")[0] == 403
    assert ask(ops_port(server), "/metrics", "localhost")[0] == 200

    other = start_server("--ops-port", "0", "--ops-hosts", "metrics.internal", url=url)

    assert ask(ops_port(other), "/metrics", "metrics.internal:9090")[0] == 200
    assert ask(ops_port(other), "/metrics", "localhost")[0] == 403
    assert ask(other.port, "/shelves", "localhost")[0] == 200
    assert ask(other.port, "/shelves", "metrics.internal")[0] == 403


def test_hosts_that_are_named_are_the_only_ones(start_server: StartServer, url: str):
    """Development's own names are not served beside them."""
    server = start_server("--hosts", "App.Example.org,[::1]", url=url)

    assert ask(server.port, "/shelves", "app.example.org")[0] == 200
    assert ask(server.port, "/shelves", "APP.example.org.:8000")[0] == 200
    assert ask(server.port, "/shelves", "[::1]:8000")[0] == 200
    assert ask(server.port, "/shelves", "localhost")[0] == 403


@pytest.mark.parametrize(
    "arguments",
    [
        ("--environment", "production"),
        ("--environment", "testing", "--hosts", "*"),
        ("--environment", "development", "--address", "0.0.0.0"),
    ],
)
def test_elsewhere_any_host_is_served(start_server: StartServer, url: str, arguments: tuple[str, ...]):
    """In production, where a proxy stands before it; on a network's address; and where it is said."""
    server = start_server("--port", "0", *arguments, url=url)

    assert ask(server.port, "/shelves", "evil.example")[0] == 200
    assert ask(server.port, "/shelves", None, version="HTTP/1.0")[0] == 200


def test_each_of_several_processes_refuses(start_server: StartServer, url: str):
    server = start_server("--processes", "2", url=url)

    assert {ask(server.port, "/shelves", "evil.example")[0] for _ in range(10)} == {403}
    assert {ask(server.port, "/shelves", "localhost")[0] for _ in range(10)} == {200}


def test_check_advises_production_to_name_its_hosts(url: str):
    advice = run("check", DATABASE_URL=url, ENVIRONMENT="production").out
    named = run("check", DATABASE_URL=url, ENVIRONMENT="production", HOSTS="app.example.org").out

    assert re.search(r"warning +hosts +any Host is served\n +-> set http\.hosts", advice)
    assert re.search(r"ok +hosts +app\.example\.org", named)


@pytest.mark.parametrize(
    "host", ["https://app.example.org", "app.example.org/", "a:80", "[::1", "*.example.org", "a b,", "ä"]
)
@pytest.mark.parametrize("setting", ["http.hosts", "ops.hosts"])
def test_a_host_that_no_request_names_is_refused(setting: str, host: str):
    """It would never match."""
    value = [host] if " " in host else host
    with pytest.raises(SettingsError, match="is no host"):
        load_settings({setting: value}, {})


def test_an_address_of_ipv6_may_be_named_without_brackets():
    assert load_settings({"http.hosts": "::1, 0:0::2 localhost."}, {}).http.hosts == (
        "[::1]",
        "[::2]",
        "localhost",
    )
