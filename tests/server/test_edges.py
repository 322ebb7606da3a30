"""Requests that no good client sends: a clear 4xx or a closed connection, and the server stays well."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import HealthCheck, example, given, settings as hypothesis_settings, strategies as st
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec
from tornado.web import Application

from handlers import ProblemHandler, log_request
from handlers.ops import LivezHandler
from tests.fixtures.edge import Edge, StartEdge, problem_in
from tests.fixtures.logs import Ear, ExpectLog, in_words
from tests.handlers.wire import WireAnswer
from tests.service.handlers import routes

gen_test = pytest.mark.gen_test

BOOK_ID = "f2ee55c638084ebfb35a00c003670ad9"


@pytest.fixture
def backend() -> str:
    """One is enough: nothing here reaches a database that would tell them apart."""
    return "sqlite"


@pytest.fixture
def edge(app: Application, start_edge: StartEdge) -> Edge:
    """The application, on the real server."""
    return start_edge(app)


def request(target: str = "/livez", *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request without a body, in the bytes of Latin-1."""
    return "\r\n".join([f"{method} {target} {version}", "Host: x", *headers, "", ""]).encode("latin-1")


# -- malformed

MALFORMED = {
    "no request": b"\x00\xff\x16\x03\x01\r\n\r\n",
    "no version": b"GET /livez\r\nHost: x\r\n\r\n",
    "another version": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "a method that is no token": b"G(T /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank in the path": b"GET /li vez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in the path": b"GET /li\x00vez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a carriage return in the path": b"GET /li\rvez HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host that is none": b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a header without a colon": b"GET /livez HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n",
    "a header's name that is no token": b"GET /livez HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    "a NUL in a header": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    "a folded header": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a length that is no number": b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
    "a negative length": b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length in other digits": b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n",
    "two lengths": b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an encoding that is not known": b"POST /shelves HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a chunk without a size": b"POST /shelves HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
    "a chunk's size without an end": b"POST /shelves HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 100,
    "a chunk that is longer than it says": b"POST /shelves HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    "1.0 with an encoding": b"POST /shelves HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n",
    "too many arguments": b"GET /shelves?" + b"a&" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


@gen_test
async def test_a_malformed_request_is_answered_with_a_problem(edge: Edge, subtests: pytest.Subtests):
    """400, all of it, then the connection ends; the next one is served."""
    for name, data in MALFORMED.items():
        with subtests.test(name):
            answer = await edge.ask(data)

            assert "malformed" in problem_in(answer, 400)["detail"]
            assert answer.headers["Connection"] == "close"
            last_words = await edge.last_words(data)
            assert last_words.count(b"HTTP/1.1 ") == 1
            assert await edge.is_well()


@gen_test
async def test_head_is_refused_without_a_body(edge: Edge):
    last_words = await edge.last_words(b"HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n")

    assert last_words.startswith(b"HTTP/1.1 400 ")
    assert last_words.endswith(b"\r\n\r\n")


@gen_test
async def test_a_refusal_has_an_access_line(edge: Edge, expect_log: ExpectLog):
    """As every other answer has, with the caller's own id; and it is no warning."""
    refused = request("/shelves?secret=1", "Content-Length: x", "X-Request-Id: mine", method="POST")
    with expect_log("tornado.access", "", level=logging.INFO) as lines:
        await edge.ask(refused)

    assert [line.getMessage() for line in lines] == ["400 POST /shelves (127.0.0.1) 0.00ms - mine"]


@gen_test
async def test_no_answer_is_written_into_another(start_edge: StartEdge):
    """A handler answers before the body has come; when a chunk turns out malformed, nothing more is said."""
    from tornado.web import RequestHandler, stream_request_body

    @stream_request_body
    class Hasty(RequestHandler):
        async def prepare(self) -> None:
            self.write("early")
            await self.flush()

        def data_received(self, chunk: bytes) -> None:
            pass

        def post(self) -> None:
            raise AssertionError("its body never came")

    edge = start_edge(Application([("/", Hasty)]))
    async with edge.wire() as wire:
        wire.writer.write(request("/", "Transfer-Encoding: chunked", method="POST"))
        await wire.reader.readuntil(b"early")
        wire.writer.write(b"no chunk\r\n")
        assert await wire.rest() == b"\r\n"  # of the early chunk


# -- targets


@gen_test
@pytest.mark.parametrize("target", ["http://x/livez", "HTTP://other:99/livez", "https://x/livez?a=b"])
async def test_a_target_with_a_host_is_taken(edge: Edge, target: str):
    """As a server has to, although only proxies are asked so."""
    assert (await edge.ask(request(target))).code == 200


ODD_TARGETS = [
    ("http://a b/livez", 400),
    ("http://a^b/livez", 400),
    ("http://x", 404),
    ("x:443", 404),
    ("*", 404),
    ("/" + "x" * 30_000, 404),
    ("/%", 404),
    ("/%zz", 404),
    ("/%00", 404),
    ("/%ff%fe", 404),
    ("/\xff", 404),
    ("/books/%00", 404),
    (f"/books/{BOOK_ID}%00", 404),
    (f"/books/{BOOK_ID}%0a", 404),
    ("/books/../shelves", 404),
    ("//shelves", 404),
    ("/shelves/", 404),
    ("/shelves/0", 404),
    ("/shelves/-1", 404),
    ("/shelves/99999999999999999999", 404),
    ("/shelves/999999999999999999", 404),
    ("/shelves?unknown=1", 400),
    ("/shelves?limit=1&limit=2", 400),
    ("/shelves?limit=%ff", 400),
    ("/shelves?name=%ff", 400),
    ("/shelves?%ff=1", 400),
    ("/shelves?\xff=1", 400),
    ("/shelves?=1", 400),
    ("/shelves?limit", 400),
    ("/shelves?limit=", 400),
    ("/shelves?limit=" + "9" * 5000, 400),
    ("/shelves?unknown=" + "x" * 20_000, 400),
]


@gen_test
async def test_an_odd_target_is_refused(edge: Edge, subtests: pytest.Subtests):
    await check_odd_targets(edge, ODD_TARGETS, subtests)


async def check_odd_targets(edge: Edge, targets: list[tuple[str, int]], subtests: pytest.Subtests) -> None:
    """Each target is answered by its status, and by a problem whose instance is a URI reference."""
    for target, status in targets:
        with subtests.test(target[:40]):
            answer = await edge.ask(request(target))

            instance = problem_in(answer, status)["instance"]
            assert re.fullmatch(r"[!-~]*", instance)  # a URI reference has nothing else


@gen_test
async def test_a_percent_sign_alone_is_a_character(edge: Edge):
    """As it is for every parser of forms: no escape, and no fault."""
    assert (await edge.ask(request("/shelves?name=%zz"))).code == 200


# -- methods


def allowed_by_the_code(routes: Iterable[URLSpec], ids: Mapping[str, str]) -> list[tuple[str, str]]:
    """A path of each route, and the methods that its handler defines.

    Args:
        ids: what stands for an id, by how the paths begin.
    """
    patterns = {
        "/livez": LivezHandler,
        **{route.matcher._path or "": route.handler_class for route in routes},  # type: ignore[attr-defined]
    }
    found = []
    for path, handler in patterns.items():
        own = {name for name in ("get", "post", "patch", "put", "delete") if name in _methods_of(handler)}
        methods = {name.upper() for name in own} | {"OPTIONS"} | ({"HEAD"} if "get" in own else set())
        example = next((example for start, example in ids.items() if path.startswith(start)), "")
        found.append((path % ((example,) * path.count("%s")), ", ".join(sorted(methods))))
    return found


def _methods_of(handler: type) -> set[str]:
    """The names that a handler's own classes define."""
    own = ("handlers.", "tests.service.")
    return {name for cls in handler.__mro__ if cls.__module__.startswith(own) for name in vars(cls)}


@gen_test
@pytest.mark.parametrize(
    ("path", "allowed"), allowed_by_the_code(routes(), {"/shelves/": "1", "/books/": BOOK_ID})
)
async def test_every_other_method_is_refused_with_those_that_are_there(edge: Edge, path: str, allowed: str):
    """405 with a right Allow, on each route; OPTIONS says the same."""
    others = {"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "TRACE", "BREW", "get"} - set(
        allowed.split(", ")
    )
    for method in sorted(others):
        if method == "HEAD":
            answer = await edge.ask(request(path, method=method), has_body=False)
            assert answer.code == 405
        else:
            answer = await edge.ask(request(path, method=method))
            assert problem_in(answer, 405)["detail"] == f"this path takes {allowed}"
        assert answer.headers["Allow"] == allowed

    options = await edge.ask(request(path, method="OPTIONS"), has_body=False)
    assert (options.code, options.headers["Allow"]) == (204, allowed)


@gen_test
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "BREW", "CONNECT"])
async def test_a_path_that_is_not_there_has_no_methods(edge: Edge, method: str):
    problem_in(await edge.ask(request("/nowhere", method=method)), 404)


@gen_test
async def test_a_form_is_no_body_here(edge: Edge):
    """415, whether Tornado could read it or not."""
    for kind in (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
    ):
        head = request("/shelves", f"Content-Type: {kind}", "Content-Length: 3", method="POST")
        detail = problem_in(await edge.ask(head + b"a=b"), 415)["detail"]
        assert detail == "the content type of a body here is application/json"


@gen_test
@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/livez", 200), ("GET", "/shelves", 200), ("PUT", "/shelves", 405)]
)
async def test_a_body_that_is_not_read_is_not_judged(edge: Edge, method: str, path: str, code: int):
    """Tornado's own reader of forms would refuse these, whatever was asked."""
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "text/plain"):
        head = request(path, f"Content-Type: {kind}", "Content-Length: 3", method=method)
        assert (await edge.ask(head + b"a=b")).code == code
    too_many = b"&" * 2000
    form = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(too_many)}")
    assert (await edge.ask(request(path, *form, method=method) + too_many)).code == code


# -- connections


@gen_test
async def test_http_1_0_is_answered_and_closed(edge: Edge):
    last_words = await edge.last_words(b"GET /livez HTTP/1.0\r\n\r\n")

    assert last_words.startswith(b"HTTP/1.1 200 ")
    assert last_words.endswith(b'{"status":"alive"}')


@gen_test
async def test_requests_in_a_row_are_answered_in_their_order(edge: Edge):
    """Pipelined, a bad one at the end: each has its answer, and what follows the bad one has none."""
    row = [request("/livez"), request("/nowhere"), request("/shelves"), b"rubbish\r\n\r\n", request("/livez")]

    last_words = await edge.last_words(b"".join(row))

    assert re.findall(rb"HTTP/1\.1 ([0-9]{3})", last_words) == [b"200", b"404", b"200", b"400"]


@gen_test
async def test_more_in_a_row_than_is_read_is_not_held(edge: Edge):
    """While one request is answered the next ones wait in the client's system, not in our memory."""
    async with edge.wire() as wire:
        for _ in range(20):
            wire.writer.write(request("/livez") * 1000)
        answers = 0
        async with asyncio.timeout(20):
            while answers < 50:
                answer = await wire.answer()
                answers += answer.code == 200
        held = max(stream._read_buffer_size for stream in edge.server._streams)
        wire.leave()

    assert held <= 2 * 65536


# -- request ids and injection


@gen_test
@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "x" * 65,
        "a b",
        "a,b",
        "../../etc",
        "<script>",
        "a\xe4",
        "%0d%0aX: y",
        "a\tb",
        "\x1b[31m",
        "'; DROP TABLE",
    ],
)
async def test_an_id_that_is_not_fit_is_replaced(edge: Edge, hostile: str):
    """By a new one, wherever the answer comes from; where it could not even be a header, the request ends."""
    for target in ("/livez", "/nowhere", "/shelves?unknown=1"):
        answer = await edge.ask(request(target, f"X-Request-Id: {hostile}"))
        if answer.code != 400 or target != "/livez":
            assert hostile not in answer.headers["X-Request-Id"] or not hostile
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


@gen_test
async def test_two_ids_are_none(edge: Edge):
    answer = await edge.ask(request("/livez", "X-Request-Id: a", "X-Request-Id: b"))

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


@gen_test
async def test_a_long_path_is_cut_in_the_log(edge: Edge, expect_log: ExpectLog):
    with expect_log("tornado.access", "^404 GET /xxx", level=logging.INFO) as lines:
        await edge.ask(request("/" + "x" * 20_000))

    assert len(lines[0].getMessage()) < 600


# -- proxies


class WhoAmI(ProblemHandler):
    """Says where it thinks that the request comes from."""

    def get(self) -> None:
        self.write_json([self.request.remote_ip, self.request.protocol])


PROXIES = ("127.0.0.0/8", "10.0.0.7")


@gen_test
@pytest.mark.parametrize(
    ("trusted", "headers", "expected"),
    [
        ((), ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"], ["127.0.0.1", "http"]),
        (("10.0.0.7",), ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"], ["127.0.0.1", "http"]),
        (PROXIES, [], ["127.0.0.1", "http"]),
        (PROXIES, ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"], ["1.2.3.4", "https"]),
        (PROXIES, ["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.7"], ["1.2.3.4", "http"]),
        (PROXIES, ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4"], ["1.2.3.4", "http"]),
        (
            PROXIES,
            ["X-Forwarded-For: 2001:db8::1", "X-Forwarded-Proto: https, http"],
            ["2001:db8::1", "http"],
        ),
        (PROXIES, ["X-Forwarded-For: <script>", "X-Forwarded-Proto: gopher"], ["127.0.0.1", "http"]),
        (PROXIES, ["X-Forwarded-For: ", "X-Real-Ip: 6.6.6.6", "X-Scheme: https"], ["127.0.0.1", "http"]),
    ],
)
async def test_only_a_trusted_proxy_names_the_caller(
    start_edge: StartEdge, trusted: tuple[str, ...], headers: list[str], expected: list[str]
):
    """None is trusted unless it is named."""
    edge = start_edge(Application([("/", WhoAmI)], log_function=log_request), trusted_proxies=trusted)
    async with edge.wire() as wire:
        wire.send("GET / HTTP/1.1", *headers)
        told = await wire.answer()
        wire.send("GET / HTTP/1.1")
        after = await wire.answer()

    assert told.body.decode() == f'["{expected[0]}","{expected[1]}"]'
    assert after.body == b'["127.0.0.1","http"]'  # nothing is left over on the connection
    assert ("Strict-Transport-Security" in told.headers) == (expected[1] == "https")


# -- anything


_METHODS = [b"GET", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD", b"PUT", b"TRACE"]
_TARGETS = [
    b"/shelves",
    b"/shelves",
    b"/livez",
    b"/nowhere",
    b"/books/" + BOOK_ID.encode(),
    b"*",
    b"http://x/shelves",
]
_BODIES = [b"", b"{}", b"[1]", b'{"name": "x"}', b"0\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"--x--", b"a=b&c"]
_HEADERS = {
    b"Content-Length": [b"0", b"2", b"13", b"99999999999", b"-1", b"2, 2"],
    b"Transfer-Encoding": [b"chunked", b"gzip", b"Chunked"],
    b"Content-Type": [
        b"application/json",
        b"application/json; charset=latin-1",
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded",
    ],
    b"Content-Encoding": [b"gzip", b"identity"],
    b"Connection": [b"close", b"keep-alive", b"Upgrade"],
    b"Upgrade": [b"websocket", b"h2c"],
    b"Expect": [b"100-continue", b"200-ok"],
    b"Origin": [b"https://a.example", b"null", b"http://x"],
    b"Sec-Fetch-Site": [b"cross-site", b"none"],
    b"Access-Control-Request-Method": [b"POST"],
    b"X-Request-Id": [b"mine", b"a b"],
    b"X-Forwarded-For": [b"1.2.3.4, x"],
    b"If-None-Match": [b"*", b'"x"', b"W/"],
    b"If-Match": [b"*", b'"x"', b'"'],
    b"Idempotency-Key": [b"key", b""],
    b"Host": [b"x", b"a b"],
}


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    """A request that is good but for one part at most, which is any bytes; so that each part is reached."""
    odd = st.text(st.characters(codec="latin-1"), max_size=12).map(lambda text: text.encode("latin-1"))
    parts = ["method", "target", "query", "version", "name", "value", "line", "end", "body"]
    which = draw(st.sampled_from(["none", "none", *parts]))

    def part(name: str, good: list[bytes]) -> bytes:
        return draw(odd if name == which else st.sampled_from(good))

    names = draw(st.lists(st.sampled_from(list(_HEADERS)), max_size=4, unique=True))
    headers = [b"%b: %b" % (name, part("value", _HEADERS[name])) for name in names]
    if which == "name":
        headers.append(b"%b: x" % draw(odd))
    if which == "line":
        headers.append(draw(odd))
    target = part("target", _TARGETS) + (b"?" + draw(odd) if which == "query" else b"")
    start = b"%b %b %b" % (part("method", _METHODS), target, part("version", [b"HTTP/1.1", b"HTTP/1.0"]))
    end = draw(st.sampled_from([b"\n", b"\r", b"\0"])) if which == "end" else b"\r\n"
    return end.join([start, b"Host: x", *headers, b"", part("body", _BODIES)])


def test_whatever_comes_in_the_server_stays_well(edge: Edge, io_loop: IOLoop, log_ear: Ear):
    """Every answer is below 500, no trace of a fault is logged, and the next good request is answered.

    Not that each is answered at once: bytes that are no whole request may wait for the rest.
    """

    async def send(data: bytes) -> bytes:
        answers = b""
        async with edge.wire() as wire:
            wire.writer.write(data)
            wire.writer.write(request("/livez", "Connection: close"))
            try:
                async with asyncio.timeout(0.03):
                    while piece := await wire.reader.read(65536):
                        answers += piece
            except (TimeoutError, ConnectionError):
                pass
        assert await edge.is_well()
        return answers

    @hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_messages() | st.binary(max_size=50) | st.lists(_messages(), max_size=3).map(b"".join))
    @example(b"POST /shelves HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    @example(b"POST /shelves HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}")
    @example(b"GET /shelves HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    def run(data: bytes) -> None:
        answers = io_loop.run_sync(lambda: send(data))
        for status in re.findall(rb"HTTP/1\.1 ([0-9]{3})", answers):
            assert int(status) < 500
        assert not log_ear.unexpected, "\n".join(map(in_words, log_ear.unexpected))

    run()


def test_the_fuzz_would_see_a_fault(start_edge: StartEdge, io_loop: IOLoop, expect_log: ExpectLog):
    """What the test above looks at is what a fault would show: a 500, and a line in the log."""

    class Faulty(ProblemHandler):
        def get(self) -> None:
            raise ZeroDivisionError

    edge = start_edge(Application([("/", Faulty)], log_function=log_request))
    with expect_log("", "ZeroDivisionError"), expect_log("tornado.access", "^500 "):
        answer: WireAnswer = io_loop.run_sync(lambda: edge.ask(request("/")))

    assert answer.code == 500
