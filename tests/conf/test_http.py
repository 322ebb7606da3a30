"""The settings of HTTP that are lists: origins and proxies."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from conf import HttpSettings, SettingsError, load_settings


@pytest.mark.parametrize(
    "text", ["https://a.example http://[::1]:8080", "https://a.example,http://[::1]:8080"]
)
def test_a_list_is_written_with_blanks_or_commas(text):
    settings = load_settings({"http.cors_origins": text}, {})

    assert settings.http.cors_origins == ("https://a.example", "http://[::1]:8080")


def test_a_list_can_be_emptied_again():
    settings = load_settings({"http.cors_origins": "none"}, {"CORS_ORIGINS": "https://a.example"})

    assert settings.http.cors_origins == ()


def test_a_file_has_a_list(tmp_path):
    (tmp_path / "testing.toml").write_text('[http]\ntrusted_proxies = ["10.0.0.7", "fd00::/8"]\n')

    settings = load_settings({"environment": "testing", "conf_dir": str(tmp_path)}, {})

    assert settings.http.trusted_proxies == ("10.0.0.7", "fd00::/8")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://a.example/",
        "https://A.example",
        "a.example",
        "file://x",
        "https://a.example:",
        "x y",
    ],
)
@pytest.mark.parametrize("name", ["cors_origins", "trusted_origins"])
def test_an_origin_that_no_browser_sends_is_refused(name, origin):
    """It would never match, and no error would show that."""
    with pytest.raises(ValidationError, match="no origin as browsers send it"):
        HttpSettings.model_validate({name: (origin,)})


def test_headers_are_named_one_by_one():
    settings = load_settings({"http.cors_headers": "Authorization, X-Tenant"}, {})

    assert settings.http.cors_headers == ("Authorization", "X-Tenant")


@pytest.mark.parametrize("name", ["*", "X Tenant", "X:", "Authorization\r\nX", "é", ""])
def test_a_name_that_no_header_has_is_refused(name):
    """And *, which no browser takes for Authorization: https://fetch.spec.whatwg.org/#cors-preflight-fetch."""
    with pytest.raises(ValidationError, match="no name of a header"):
        HttpSettings.model_validate({"cors_headers": (name,)})


def test_a_network_is_one():
    with pytest.raises(
        SettingsError, match=r"http.trusted_proxies: 10.0.0.1/8 has host bits set: 10.0.0.7 or"
    ):
        load_settings({"http.trusted_proxies": "10.0.0.1/8"}, {})
