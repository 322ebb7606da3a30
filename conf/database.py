"""The settings of the database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from conf.masks import MASK, mask_text, mask_value

DRIVERS = (
    "postgresql",
    "postgres",
    "postgresql+psycopg2",
    "postgresql+psycopg",
    "postgresql+asyncpg",
    "sqlite",
    "sqlite+pysqlite",
    "sqlite+aiosqlite",
    "mysql+pymysql",
    "mariadb+pymysql",
)
POOLER: Final = "pgbouncer"
"""The pooler that `DatabaseSettings.pooler` may name."""

_ADDRESS = {"host", "hostaddr", "port", "dbname", "database", "target_session_attrs"}
"""What of a driver's arguments says where the database is."""

URLS = ("url", "reader_url")
"""Secrets that are shown without their password."""

PARTS = ("drivername", "username", "password", "host", "port", "database")

VERSION_TABLE = "alembic_version"
"""Where Alembic keeps the revisions of a schema, unless it is told otherwise."""

KEY_CHARS_MIN = 32

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _check_query_value(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise ValueError('should be text, or a list of texts, as in a URL\'s query: "5", not 5')


QueryValue = Annotated[str | list[str], BeforeValidator(_check_query_value)]


def words(value: Any) -> Any:
    """A list as in TOML, or as text of a flag or variable: separated by blanks or commas; or none."""
    if isinstance(value, str):
        return () if value.lower() == "none" else tuple(value.replace(",", " ").split())
    return tuple(value) if isinstance(value, list) else value


def _check_modules(modules: tuple[str, ...]) -> tuple[str, ...]:
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"{mask_text(module)[:60]!r} is no name of a module: shop.models")
    return modules


Modules = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(_check_modules)]


class Section(BaseModel):
    """Lives as long as its owner, and never changes: frozen.

    Strict: ``pool_size="5"`` is a fault here. Text becomes numbers in ``conf.sources``, since a variable or a
    flag can only be text; a quoted number in a TOML file is a mistake, and is reported as one.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        hide_input_in_errors=True,  # the input may hold the password
    )

    def __repr_args__(self) -> list[tuple[str | None, Any]]:  # str() is made of it as well
        return [(name, shown(getattr(self, name), name=name)) for name in type(self).model_fields]


def shown(value: Any, *, name: str) -> Any:
    """A setting's value as it may be shown. A URL loses its secrets only; a section masks its own."""
    if isinstance(value, SecretStr) and name in URLS:
        return mask_text(value.get_secret_value())
    return value if isinstance(value, BaseModel) else mask_value(value, name=name)


class DatabaseSettings(Section):
    """Where the database is and how its connections are kept. Lives as long as its owner; frozen.

    Reads neither files nor the process environment, so that another application, a script or a test can make
    one by hand: ``DatabaseSettings(url="sqlite:///x.db")``. The database is given as ``url`` or as parts.
    ``query`` and ``connect_args`` go with both; the URL's own query wins over ``query``.
    """

    url: SecretStr | None = Field(
        None, description="where the database is: postgresql://user:password@host/name"
    )
    # A write arrives there a moment later; the response to the write itself is complete at once.
    reader_url: SecretStr | None = Field(
        None,
        description="a replica that reads go to, which may not have a client's own last write yet; "
        "none: the database itself",
    )
    drivername: str | None = Field(None, description="the URL in parts: database and driver")
    username: str | None = Field(None, description="the URL in parts: user")
    password: SecretStr | None = Field(
        None, description="the URL in parts: password, as it is, nothing escaped"
    )
    host: str | None = Field(None, description="the URL in parts: host, or the folder of a Unix socket")
    port: int | None = Field(None, ge=1, le=65_535, description="the URL in parts: port")
    database: str | None = Field(None, description="the URL in parts: name of the database, or SQLite's file")
    query: dict[str, QueryValue] = Field(
        default_factory=dict, description="parameters of the connection; the URL's own win over them"
    )
    connect_args: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the driver's connect(), as a JSON object"
    )

    # Between transactions such a pooler may assign the server connection to another client: what was set for
    # longer than a transaction would apply to that client, and not to this one.
    pooler: Literal["pgbouncer"] | None = Field(
        None, description="what stands before PostgreSQL and pools transactions: pgbouncer; none: nothing"
    )
    pool_size: int = Field(10, ge=1, le=1_000, description="connections of the writer that are kept")
    reader_pool_size: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="connections of the reader that are kept; none: as many as the writer's",
    )
    # 0: as many units of work are admitted as there are connections, so none is needed above them.
    max_overflow: int = Field(
        0, ge=0, le=1_000, description="connections above pool_size, closed when checked in"
    )
    pool_timeout_s: float = Field(
        5.0, ge=0, le=3_600, allow_inf_nan=False, description="longest wait for a free connection, then 503"
    )
    # A wait that ends in 503 helps no client. How many can be served in time depends on how long their work
    # takes: pool_size * pool_timeout_s / the seconds of one. None: the queue's own pace decides, once it has
    # stood for pool_timeout_s (`AdmissionLimiter`), so that a burst waits its turn.
    pool_max_waiting: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="how many may wait for a connection, the next is 503 at once; none: as many as were "
        "served in the last pool_timeout_s",
    )
    # 30 minutes: below the hour after which firewalls and load balancers commonly forget an idle connection.
    pool_recycle_s: int = Field(
        1_800, ge=-1, le=604_800, description="age at which connections are replaced; -1: never"
    )
    pool_pre_ping: bool = Field(True, description="ping an idle connection before it is used")
    # A ping is a round trip, and a request whose connection is gone is retried. What cannot be retried always
    # pings: a stream, a script, a job.
    pool_ping_after_s: float = Field(
        5.0, ge=0, le=86_400, allow_inf_nan=False, description="how long idle before it is pinged; 0: always"
    )
    pool_idle_s: Seconds | None = Field(
        300.0, description="connections idle for so long are closed, down to pool_min; none: never"
    )
    pool_min: int = Field(1, ge=0, le=1_000, description="idle connections that are kept in any case")
    # The connections that a peak opened grow idle at the other end and are recycled there.
    pool_use_lifo: bool = Field(
        True, description="take the connection that was used last, not the one idle longest"
    )

    # Whole seconds: libpq and pymysql take nothing finer.
    connect_timeout_s: int = Field(5, ge=1, le=600, description="longest wait for a new connection")
    busy_timeout_s: float = Field(
        5.0, ge=0, le=600, allow_inf_nan=False, description="SQLite: longest wait for another process's lock"
    )
    # Behind the request's own deadline (http.request_timeout_s), for what has none: scripts and jobs.
    statement_timeout_s: Seconds | None = Field(
        60.0, description="PostgreSQL: longest a statement may run; none: no limit"
    )
    # None: a wait for a lock ends with its request, or after statement_timeout_s. Set it where such a wait
    # should end sooner than a statement that runs.
    lock_timeout_s: Seconds | None = Field(
        None, description="PostgreSQL: longest wait for a lock; none: no limit"
    )
    # For a process that was stopped, or whose link is gone: it cannot end its transaction, and holds locks.
    idle_in_transaction_timeout_s: Seconds | None = Field(
        60.0, description="PostgreSQL: longest pause inside of a transaction; none: no limit"
    )
    # For a connection that was abandoned where pool_idle_s cannot close it, say on a machine that lost its
    # network. None: the server's own keepalives detect that too, and an idle service would reconnect each
    # time. PostgreSQL 14 and newer support it; behind a pooler the sessions are the pooler's.
    idle_session_timeout_s: Seconds | None = Field(
        None, description="PostgreSQL: ends a connection idle for so long; none: no limit"
    )
    # A link that went down silently is detected within half a minute, not after two hours.
    keepalive_idle_s: int = Field(
        15, ge=1, le=7_200, description="PostgreSQL: silence after which the kernel probes a link"
    )
    keepalive_interval_s: int = Field(5, ge=1, le=600, description="PostgreSQL: pause between such probes")
    keepalive_count: int = Field(
        3, ge=1, le=100, description="PostgreSQL: unanswered probes after which the link is down"
    )
    # The same where data was sent: the kernel's own limit is a quarter of an hour.
    tcp_user_timeout_s: Seconds | None = Field(
        30.0, description="PostgreSQL: longest that sent data may stay unacknowledged; none: the kernel's own"
    )
    # Only psycopg2 has the choice. A wait in a greenlet costs less than half of the way to a thread and back;
    # a function that computes there, or waits for anything but the database, blocks all other requests, and
    # the watchdog names it: its handler sets `executor`.
    executor: Literal["auto", "threads", "greenlets"] = Field(
        "auto",
        description="psycopg2: where model functions run, in threads or in greenlets on the event loop; "
        "auto: greenlets",
    )
    commit_witness: bool = Field(
        True, description="PostgreSQL: write commit markers, which show whether a lost COMMIT was applied"
    )
    unreplicated_commit: Literal["unknown", "kept"] = Field(
        "unknown",
        description="PostgreSQL: what a COMMIT is whose wait for a synchronous standby an administrator has "
        "cancelled: unknown, or kept with a warning in the log",
    )
    # Without a key there are no tokens. One that is made at the start would be another in each instance, and
    # after each restart: every token that is out there would be refused.
    write_token_key: SecretStr | None = Field(
        None,
        description="PostgreSQL: the secret that signs tokens of writes (Wrote, Read-After), the same in all "
        f"instances, {KEY_CHARS_MIN} characters or more; of several the first signs; none: no tokens",
    )
    # An ordinary replica is some milliseconds behind. Each read that waits holds a connection meanwhile.
    read_after_wait_ms: int = Field(
        50,
        ge=0,
        le=10_000,
        description="how long a read with a token waits for the replica to have the write, before it goes to "
        "the primary",
    )
    wsrep_sync_wait: bool = Field(
        False,
        description="MariaDB Galera: each read waits until its node has applied what others had committed",
    )
    # One of its own beside another application's Alembic, in whose table our revisions would be unknown.
    version_table: str = Field(
        VERSION_TABLE,
        max_length=63,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the table that holds the schema's revisions; one of its own beside another Alembic",
    )
    # Installed, onfinish has the sample's tables in itself, and cannot know of an application's.
    models: Modules = Field(
        (),
        description="modules and packages that have the application's tables, for migrate and shell; none: "
        "the packages of db in the clone, the sample's where onfinish is installed",
    )
    application_name: str = Field(
        "onfinish", min_length=1, max_length=63, description="the name that pg_stat_activity shows"
    )
    echo: bool = Field(False, description="log every statement (parameters hidden)")
    # Three: requests that met in a deadlock meet a third time only by a fault of the application's design.
    attempts_max: int = Field(
        3, ge=1, le=20, description="attempts in all at a request that conflicts with another"
    )

    if TYPE_CHECKING:
        # A type checker reads the fields and would require SecretStr, where callers have text.
        def __init__(
            self,
            *,
            url: str | SecretStr | None = None,
            password: str | SecretStr | None = None,
            **settings: Any,
        ) -> None: ...

    @property
    def shown_url(self) -> str:
        """Where the database is, in one line that may be shown: the URL, or what the parts make, masked."""
        if self.url is not None:
            return mask_text(self.url.get_secret_value())
        user = f"{self.username or ''}{':' + MASK if self.password is not None else ''}"
        address = f"{self.host or ''}{f':{self.port}' if self.port is not None else ''}"
        return f"{self.drivername}://{user + '@' if user else ''}{address}/{self.database or ''}"

    @property
    def shown_reader_url(self) -> str | None:
        """Where reads go, likewise; None where that is the same database."""
        return None if self.reader_url is None else mask_text(self.reader_url.get_secret_value())

    def for_reader(self) -> DatabaseSettings:
        """The settings of the reader: these, or with ``reader_url`` those of the replica."""
        if self.reader_url is None:
            return self
        return self.model_copy(update={**dict.fromkeys(PARTS), "url": self.reader_url, "reader_url": None})

    @field_validator(*URLS)
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and (fault := url_fault(url.get_secret_value())):
            raise ValueError(fault)
        return url

    @field_validator("drivername")
    @classmethod
    def _check_drivername(cls, drivername: str | None) -> str | None:
        if drivername is not None and (fault := driver_fault(drivername)):
            raise ValueError(fault)
        return drivername

    @field_validator("write_token_key")
    @classmethod
    def _check_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        given = [] if keys is None else keys.get_secret_value().split() or [""]
        if any(len(key) < KEY_CHARS_MIN for key in given):
            raise ValueError(f"should have {KEY_CHARS_MIN} characters or more: openssl rand -hex 32")
        return keys

    @model_validator(mode="after")
    def _check_together(self) -> DatabaseSettings:
        faults = together_faults(dict(self))
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        return self

    @field_serializer(*URLS, "password", "query", "connect_args", when_used="json")
    def _serialize(self, value: Any, info: Any) -> Any:
        return shown(value, name=info.field_name)


def driver_fault(drivername: str) -> str | None:
    """What is wrong with the driver's name, or None."""
    if drivername in DRIVERS or _is_of_another_database(drivername):
        return None
    known = drivername if re.fullmatch(r"[A-Za-z0-9_+.]{1,40}", drivername) else MASK  # else a URL, or worse
    return f"driver {known!r} is not known: choose one of {', '.join(DRIVERS)}"


def _is_of_another_database(drivername: str) -> bool:
    """Whether SQLAlchemy has a dialect that blocks, for a database that has no driver here."""
    if drivername.partition("+")[0] in {known.partition("+")[0] for known in DRIVERS}:
        return False
    from sqlalchemy.dialects import registry
    from sqlalchemy.exc import NoSuchModuleError

    try:
        return not registry.load(drivername.replace("+", ".")).is_async
    except NoSuchModuleError:
        return False


def url_fault(url: str) -> str | None:
    """What is wrong with a database URL, or None. The message shows nothing of the URL but its driver.

    Uses SQLAlchemy's own parser, which will read the URL later. It is imported here because it costs more
    than all of conf, and ``--help`` does not need it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "not a URL: it reads driver://user:password@host:port/name, or sqlite:///file"
    if url != url.strip() or any(ord(char) < 32 for char in url):
        return "malformed URL: white space round it, or a control character in it"
    if fault := driver_fault(scheme):
        return fault

    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ValueError:  # from int(), which quotes what it was given
        return (
            "malformed URL: the port is no number (several hosts go into the query: ?host=a:5432&host=b:5432)"
        )
    except ArgumentError:
        return "malformed URL: it reads driver://user:password@host:port/name"
    if "@" in (parsed.host or ""):
        return "malformed URL: an @ in the user's name or the password is written %40"
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        return "malformed URL: the port is not between 1 and 65535"
    if scheme.startswith("sqlite"):
        if parsed.host or parsed.username or parsed.port:
            return (
                "malformed URL: a file takes three slashes, sqlite:///file.db, and four with its whole path"
            )
    elif not rest.split("?", 1)[0].strip("/") and not parsed.query:
        return "the URL names neither a host nor a database"
    return None


def together_faults(given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with settings that are each right alone, by the name of the setting to change.

    Reads plain values, so that ``conf.loading`` can call it before anything has been validated.
    """
    if faults := _pooler_faults(given) or _executor_faults(given):
        return faults
    if given.get("write_token_key") is not None and given.get("commit_witness") is False:
        return {"write_token_key": "a token names a commit marker: leave database.commit_witness on"}
    parts = [name for name in PARTS if given.get(name) is not None]
    if given.get("url") is not None:
        if parts:
            return {"url": f"given together with its parts ({', '.join(parts)}): keep the one or the others"}
        return _reader_faults(given)
    if not parts:
        return {
            "url": "missing: give postgresql://user:password@host/name, or its parts (drivername, host, …)"
        }
    if "drivername" not in parts:
        return {"drivername": f"missing beside {', '.join(parts)}: choose one of {', '.join(DRIVERS)}"}
    if str(given["drivername"]).startswith("sqlite"):
        others = [name for name in parts if name in ("username", "password", "host", "port")]
        if others:
            return {others[0]: f"SQLite has a file only: leave out {', '.join(others)}"}
    return _reader_faults(given)


def _reader_faults(given: Mapping[str, Any]) -> dict[str, str]:
    """Which settings contradict a replica."""
    reader = _text_of(given.get("reader_url"))
    if reader is None:
        return {}
    own = _driver_of(_text_of(given.get("url")) or str(given.get("drivername")))
    if own.startswith("sqlite"):
        return {"reader_url": "SQLite is one file, which has no replica: leave it out"}
    if _driver_of(reader) != own:
        return {"reader_url": f"its driver has to be the database's own, {own}"}
    for name in ("query", "connect_args"):  # which apply to both, and may win over what a URL says
        if found := sorted(_ADDRESS & {*(given.get(name) or {})}):
            return {name: f"{', '.join(found)} would apply to the replica too: set it in url and reader_url"}
    return {}


def _driver_of(url: str) -> str:
    """A URL's driver, with the bare names that mean psycopg2 replaced by its full name."""
    driver = url.partition("://")[0]
    return "postgresql+psycopg2" if driver in ("postgres", "postgresql") else driver


def _text_of(url: Any) -> str | None:
    return url.get_secret_value() if isinstance(url, SecretStr) else None if url is None else str(url)


def _executor_faults(given: Mapping[str, Any]) -> dict[str, str]:
    """Whether the driver cannot be used in the executor that is named."""
    executor, database = given.get("executor"), _text_of(given.get("url")) or given.get("drivername")
    if executor in (None, "auto") or database is None:
        return {}
    driver = _driver_of(str(database))
    own = "greenlets" if driver.endswith(("+asyncpg", "+psycopg", "+aiosqlite")) else "threads"
    if driver == "postgresql+psycopg2" or executor == own:
        return {}
    return {"executor": f"{driver} works in {own} only, and psycopg2 alone in both: leave it out"}


def _pooler_faults(given: Mapping[str, Any]) -> dict[str, str]:
    """Which settings contradict a pooler."""
    if given.get("pooler") is None:
        return {}
    database = _text_of(given.get("url")) or given.get("drivername")
    if database is not None and not str(database).startswith("postgres"):
        return {"pooler": f"{given['pooler']} stands before PostgreSQL only: leave it out"}
    if given.get("idle_session_timeout_s") is not None:
        return {
            "idle_session_timeout_s": "behind a pooler the sessions are the pooler's: leave it out, and set "
            "client_idle_timeout and server_idle_timeout there"
        }
    return {}
