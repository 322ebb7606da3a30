"""Each setting has a flag and a variable of its own."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from conf.names import names, near
from conf.settings import Settings

# API.md's table, word for word.
PROMISED = [
    ("environment", "--environment", "ENVIRONMENT"),
    ("http.port", "--port", "PORT"),
    ("http.address", "--address", "ADDRESS"),
    ("http.processes", "--processes", "PROCESSES"),
    ("http.drain_s", "--drain-s", "DRAIN_S"),
    ("http.request_timeout_s", "--request-timeout-s", "REQUEST_TIMEOUT_S"),
    ("http.body_max_bytes", "--body-max-bytes", "BODY_MAX_BYTES"),
    ("ops.port", "--ops-port", "OPS_PORT"),
    ("database.url", "--database-url", "DATABASE_URL"),
    ("database.pool_size", "--pool-size", "POOL_SIZE"),
    ("database.reader_pool_size", "--reader-pool-size", "READER_POOL_SIZE"),
    ("database.max_overflow", "--max-overflow", "MAX_OVERFLOW"),
    ("database.pool_timeout_s", "--pool-timeout-s", "POOL_TIMEOUT_S"),
    ("database.pool_max_waiting", "--pool-max-waiting", "POOL_MAX_WAITING"),
    ("database.models", "--database-models", "DATABASE_MODELS"),
    ("database.pool_recycle_s", "--pool-recycle-s", "POOL_RECYCLE_S"),
    ("database.pool_pre_ping", "--pool-pre-ping", "POOL_PRE_PING"),
    ("database.password", "--database-password", "DATABASE_PASSWORD"),
    ("compare.mount", "--compare-mount", "COMPARE_MOUNT"),
]


@pytest.mark.parametrize(("path", "flag", "variable"), PROMISED)
def test_the_documented_names(path: str, flag: str, variable: str) -> None:
    assert (names()[path].flag, names()[path].variable) == (flag, variable)


def test_no_two_settings_share_a_name() -> None:
    found = names().values()

    assert len({name.flag for name in found}) == len(found)
    assert len({name.variable for name in found}) == len(found)


def test_no_setting_takes_a_variable_that_every_process_has() -> None:
    """A shell's or a desktop's own variables would otherwise change the settings."""
    common = {
        "USER",
        "USERNAME",
        "HOME",
        "HOST",
        "HOSTNAME",
        "PATH",
        "PWD",
        "LANG",
        "SHELL",
        "TERM",
        "TMPDIR",
    }

    assert not common & {name.variable for name in names().values()}


def test_two_settings_of_one_name_are_refused_before_one_hides_the_other() -> None:
    class One(BaseModel):
        pool_size: int = 1

    class Both(BaseModel):
        readers: One = One()
        writers: One = One()

    with pytest.raises(TypeError, match=r"--pool-size .* both readers.pool_size and writers.pool_size"):
        names(Both)


def test_every_setting_says_what_it_is() -> None:
    """``--help`` is made of it."""
    assert [path for path, name in names().items() if not name.field.description] == []


def test_what_was_meant_is_found_in_another_section_too() -> None:
    known = list(names())

    assert near("http.prot", known) == "; did you mean http.port?"
    assert near("http.pool_size", known) == "; did you mean database.pool_size?"
    assert near("zebra", known) == ""
    assert "port" in Settings().http.model_dump()
