"""What is shown holds no secret."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st
from pydantic import SecretStr
from sqlalchemy import URL

from conf.masks import is_secret_name, mask_text, mask_value

# Long enough not to stand in a URL by chance; with all that one would have to escape in a URL.
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=6).map(
    lambda t: f"q{t}q"
)
RAW = st.text("abcXYZ019:/@?#%+.$!-_", min_size=4, max_size=40).map(lambda text: f"qz{text}zq")


@given(password=PASSWORDS, host=st.sampled_from(["h", "db.example.org", None, "::1"]))
def test_a_password_in_a_url_is_masked_however_odd_it_is(password: str, host: str | None) -> None:
    url = URL.create("postgresql", username="me", password=password, host=host, database="board")
    shown = mask_text(url.render_as_string(hide_password=False))

    assert quote(password, safe="") not in shown
    assert shown.startswith("postgresql://me:***@")
    assert shown.endswith("/board")


@given(password=RAW)
def test_a_password_that_should_have_been_escaped_is_masked_whole(password: str) -> None:
    shown = mask_text(f"postgresql://me:{password}@db.example.org/board?sslmode=require")

    assert shown == "postgresql://me:***@db.example.org/board?sslmode=require"


@given(
    password=PASSWORDS,
    name=st.sampled_from(["password", "sslpassword", "PASSWD", "access_token", "p%61ssword"]),
)
def test_a_secret_in_a_query_is_masked_by_its_name(password: str, name: str) -> None:
    shown = mask_text(
        f"postgresql://h/board?application_name=x&{name}={quote(password, safe='')}&sslmode=require"
    )

    assert shown == f"postgresql://h/board?application_name=x&{name}=***&sslmode=require"


@pytest.mark.parametrize(
    "harmless",
    [
        "sqlite:////srv/a@b/onfinish.db",
        "postgresql://db.example.org:5432/board?user=me@server",
        "postgresql:///board?passfile=/etc/pgpass&sslkey=/etc/key.pem",
        "run again at 12:30, or write to me@example.org",
        "",
    ],
)
def test_what_is_no_secret_stays_readable(harmless: str) -> None:
    assert mask_text(harmless) == harmless


def test_every_url_in_a_longer_text_is_masked() -> None:
    text = "copied postgresql://a:first@h/x to 'redis://:second@h' with --password=third"

    assert mask_text(text) == "copied postgresql://a:***@h/x to 'redis://:***@h' with --password=***"


def test_a_value_is_masked_by_its_type_its_name_and_what_it_holds() -> None:
    value = {
        "password": "geheim",
        "pin": SecretStr("geheim"),
        "proxies": ["http://me:geheim@proxy", "http://proxy"],
        "oauth": {"client_secret": ["geheim"], "token": 123456, "scope": "all"},
        "passfile": "/etc/pgpass",
        "timeout": 5,
    }

    assert mask_value(value) == {
        "password": "***",
        "pin": "***",
        "proxies": ["http://me:***@proxy", "http://proxy"],
        "oauth": {"client_secret": ["***"], "token": "***", "scope": "all"},
        "passfile": "/etc/pgpass",
        "timeout": 5,
    }


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("ssl_key_password", True),
        ("API_KEY", True),
        ("sslkey", False),
        ("passfile", False),
    ],
)
def test_secret_names(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret
