"""The settings: one checked, frozen model a section."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from conf.database import DatabaseSettings, Seconds, Section, shown, words
from conf.hosts import ANY, canonical_host
from conf.masks import mask_text

DEFAULT_URL = "sqlite:///onfinish.db"

# Where a traceback in a response does no harm. Any other environment, also one that a clone adds (staging),
# has the same restrictions as production.
HARMLESS = ("development", "testing")

KIB = 1024
MIB = 1024 * KIB

# As browsers write an origin in the header of that name: it is compared letter by letter.
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

# https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2, without the * that stands for any in CORS.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{mask_text(origin)[:60]!r} is no origin as browsers send it: https://app.example.org, "
                "in lower case, without path and slash; * is not taken, "
                "it would let every page on the web write here"
            )
    return origins


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts, each in its canonical spelling."""
    if hosts == (ANY,):
        return hosts
    checked = []
    for host in hosts:
        spelled = canonical_host(f"[{host}]" if host.count(":") > 1 and host[0] != "[" else host)
        if spelled is None:
            raise ValueError(
                f"{mask_text(host)[:60]!r} is no host as requests name it: app.example.org, 10.0.0.7 or "
                "[::1], without scheme, port and path; * alone serves any"
            )
        checked.append(spelled)
    return tuple(checked)


def _check_header_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(
                f"{mask_text(name)[:60]!r} is no name of a header: Authorization; * is not taken, "
                "it would not stand for Authorization"
            )
    return names


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{mask_text(str(error))}: 10.0.0.7 or 10.0.0.0/24") from None
    return networks


Origins = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(_check_origins)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(_check_hosts)]
HeaderNames = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(_check_header_names)]
Networks = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(_check_networks)]


class HttpSettings(Section):
    """Where requests come in and what one of them may take. Lives as long as its Settings; frozen."""

    address: str = Field("127.0.0.1", min_length=1, description="the address that is listened on")
    port: int = Field(8888, ge=0, le=65_535, description="the port; 0 takes a free one")
    # A web page whose name points to 127.0.0.1 has this server's origin: only its Host distinguishes it.
    hosts: Hosts = Field(
        (),
        description="hosts that requests may name, 403 for others; none: any, but in development and testing "
        "on a loopback address localhost, 127.0.0.1, [::1] and that address; *: any",
    )
    processes: int = Field(1, ge=1, le=256, description="processes that share the port")
    # uvloop took 3 to 9 % less CPU for a request when it was introduced: docs/performance.md.
    event_loop: Annotated[Literal["auto", "asyncio", "uvloop"], BeforeValidator(_lower)] = Field(
        "auto", description="asyncio's own loop, or uvloop; auto: uvloop where it is installed"
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="on SIGTERM: longest wait for requests in flight",
    )
    # While /readyz is 503 and the load balancer notices. No load balancer asks a laptop's /readyz.
    grace_s: float = Field(
        0.5,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="on SIGTERM: new connections still accepted so long",
    )
    request_timeout_s: Seconds = Field(30.0, description="longest a request may take, then 504")
    # Most paths take less: `body_max_bytes` of their handlers.
    body_max_bytes: int = Field(
        8 * MIB, ge=1, le=1024 * MIB, description="largest body of any path, then 413; most take 1 MiB"
    )
    # nginx accepts 32 KiB in all (large_client_header_buffers 4 8k): what passes the proxy passes here.
    header_max_bytes: int = Field(
        32 * KIB, ge=KIB, le=MIB, description="largest request line and headers, then 431"
    )
    # From a request's first byte to the end of its headers; Apache's mod_reqtimeout allows 20 s too.
    header_timeout_s: Seconds = Field(20.0, description="longest a request's headers may take, then 408")
    # 8 MiB within it need 1.1 Mbit/s.
    body_timeout_s: Seconds = Field(60.0, description="longest a request's body may take, then 408")
    # Above the 60 s of AWS's load balancers: the side that sends the next request should be the first to
    # close, else it sends on a connection that has just been closed. nginx's keepalive_timeout is 75 s too.
    idle_timeout_s: Seconds = Field(
        75.0, description="longest a connection may lie idle, or leave an answer unread; then it is closed"
    )
    docs: bool | None = Field(
        None, description="serve /docs, the API to read and to try; none: but not in production"
    )
    cors_origins: Origins = Field(
        (), description="origins whose pages may read and write here; none: CORS is off"
    )
    cors_headers: HeaderNames = Field(
        (), description="headers that those pages may send besides the API's own: Authorization"
    )
    trusted_origins: Origins = Field(
        (), description="origins whose pages may write here without reading the answers"
    )
    # Any other client could send an X-Forwarded-For of its choice.
    trusted_proxies: Networks = Field(
        (), description="addresses whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    # Navigation sends no header of one's own. For so long each read looks its write up, which costs a round
    # trip: longer than replicas are behind, no longer than a visit.
    write_cookie_s: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        None,
        description="life of the cookie in which browsers send a write's token with the reads that follow; "
        "none: no cookie",
    )
    # Each holds a connection of the pool for as long as its client reads.
    exports_max: int = Field(2, ge=1, le=1_000, description="exports that may run at once, then 503")


class OpsSettings(Section):
    """How the service is watched. Lives as long as its Settings; frozen."""

    port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="/metrics and /stats listen there, on loopback, and nowhere else; "
        "none: off in production, elsewhere on the main port, for loopback callers",
    )
    hosts: Hosts = Field(
        (), description="hosts that requests to ops.port may name; none: as http.hosts has it"
    )
    # Twice the longest that a request may take: only leaks and slow exports are open longer.
    leak_s: Seconds | None = Field(
        60.0, description="a unit of work open for longer is logged, with its stack and last SQL; none: never"
    )
    # All requests of the process wait so long; half of it would hardly be noticed.
    lag_s: Seconds | None = Field(
        0.1, description="an event loop that stood still for longer is logged; none: never"
    )
    # The rows are kept for a day and connections are idle for minutes: neither needs it to the second.
    jobs_every_s: Seconds | None = Field(
        60.0, description="how often expired keys are deleted and idle connections closed; none: never"
    )
    # Some 5 µs of CPU for each statement.
    record_requests: bool | None = Field(
        None,
        description="each request's statements are recorded, for /-/requests; none: in development alone",
    )


class CompareSettings(Section):
    """Whether the scope comparison is served. Lives as long as its Settings; frozen."""

    mount: bool = Field(False, description="serve /contextvar, /registry, /threadlocal and /compare")


class LogSettings(Section):
    """What is logged and how it is written. Lives as long as its Settings; frozen."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="the least of what is logged"
    )
    format: Annotated[Literal["lines", "json"], BeforeValidator(_lower)] = Field(
        "lines", description="lines to read, or one JSON object a line"
    )
    database_messages: bool = Field(
        False,
        description="a database's error messages and statements are logged, and shown in a 500's debug; "
        "never in production",
    )


class Settings(BaseModel):
    """Everything that can be set. Lives as long as the process; frozen.

    Made by ``conf.load_settings``. Made by hand, ``Settings(database=…)``, it reads neither files nor the
    process environment, as tests need it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, hide_input_in_errors=True
    )

    environment: str = Field(
        "development", description="development, testing or production: chooses the file"
    )
    conf_dir: Path | None = Field(None, description="folder with <environment>.toml; none: the package's own")
    debug: bool = Field(
        False,
        description="asyncio's debug mode: slow callbacks and lost awaits are logged; a 5xx has its stack",
    )
    autoreload: bool = Field(False, description="start again when a file changes; never in production")

    http: HttpSettings = Field(default_factory=HttpSettings)
    ops: OpsSettings = Field(default_factory=OpsSettings)
    database: DatabaseSettings = Field(default_factory=lambda: DatabaseSettings(url=DEFAULT_URL))
    compare: CompareSettings = Field(default_factory=CompareSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        top = {name: value for name, value in self if not isinstance(value, Section)}
        sections = {name: value for name, value in self if isinstance(value, Section)}
        faults = together_faults(
            top | {f"{section}.{name}": value for section in sections for name, value in sections[section]}
        )
        if faults:
            raise ValueError("; ".join(f"{path}: {fault}" for path, fault in faults.items()))
        return self

    def __repr_name__(self) -> str:
        return "Settings"  # not the name of the subclass that conf.loading makes for its sources

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(name, shown(getattr(self, name), name=name)) for name in type(self).model_fields]

    @property
    def records_requests(self) -> bool:
        """Whether the statements of each request are recorded."""
        own = self.ops.record_requests
        return self.environment == "development" if own is None else own

    @property
    def production(self) -> bool:
        """Whether untrusted clients are to be expected: in every environment but development and testing."""
        return self.environment not in HARMLESS

    def origin_of(self, path: str) -> str:
        """Where the value in force came from.

        Args:
            path: a setting, ``http.port``, or one entry of a table: ``database.query.sslmode``.

        Returns:
            ``default``, ``conf/<environment>.toml``, ``environment PORT``, ``flag --port``, or ``argument``
            where the settings were made by hand.

        Raises:
            KeyError: no such setting.
        """
        value: Any = self
        for name in path.split("."):
            fields = getattr(type(value), "model_fields", value if isinstance(value, dict) else {})
            if name not in fields:
                raise KeyError(f"no such setting: {path}")
            parent, value = value, value[name] if isinstance(value, dict) else getattr(value, name)
        if path in self._origins:
            return self._origins[path]
        made_by_hand = not self._origins and name in getattr(parent, "model_fields_set", ())
        return "argument" if made_by_hand else "default"


def together_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with settings of several sections that are each right alone, by the setting to change.

    Reads plain values by their paths, so that ``conf.loading`` can call it before validation.
    """
    environment = values.get("environment", "development")
    faults = {}
    if environment not in HARMLESS:
        dangerous = {
            "debug": "it costs time, and logs more than a log should keep",
            "autoreload": "it drops requests at every change of a file",
            "compare.mount": "it serves what is wrong on purpose",
            "log.database_messages": "a database's messages hold rows, and clients would read them",
            "database.echo": "it logs every statement; leave it out, or set DATABASE_ECHO=false",
        }
        faults = {
            path: f"not with environment {environment!r}: {why}"
            for path, why in dangerous.items()
            if values.get(path) is True
        }
    processes = values.get("http.processes", 1)
    several = isinstance(processes, int) and processes > 1
    if several and values.get("autoreload") is True:
        faults["autoreload"] = (
            f"not with {processes} processes: add --no-autoreload, or set http.processes to 1"
        )
    if several and _in_memory(values):
        faults["http.processes"] = (
            "each process would have an in-memory SQLite of its own: set 1, or another URL"
        )
    ops_port = values.get("ops.port")
    if ops_port and ops_port == values.get("http.port", 8888):
        faults["ops.port"] = f"http.port is {ops_port} too"
    return faults


def _in_memory(values: Mapping[str, Any]) -> bool:
    url = values.get("database.url")
    if url is None:
        is_sqlite = str(values.get("database.drivername")).startswith("sqlite")
        return is_sqlite and values.get("database.database") in (None, "", ":memory:")
    text = url.get_secret_value() if isinstance(url, SecretStr) else str(url)
    return re.match(r"sqlite[+a-z]*://(/?$|/?\?|/:memory:|.*[?&]mode=memory)", text) is not None
