"""What a secret looks like when it is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

MASK = "***"

# Names as the drivers and their users write them: password, sslpassword, passwd, pwd, ssl_key_password,
# token, client_secret. A passfile is a path, and more helpful when shown.
_SECRET_NAME = re.compile(r"(?!passfile$).*(pass|pwd|secret|token|credential|api_?key)", re.IGNORECASE)

_WORD = re.compile(r"\S+")
_SCHEME = re.compile(r"[\w+.-]{1,64}:/{1,3}")
_QUERY = re.compile(r"\?[\w.%-]{1,64}=")
# Bounded, so that no text takes long; the longest of passwords, a cloud's sign-in token, has 2 KB.
_QUERY_PAIR = re.compile(r"(?P<before>^|[?&;\s])(?P<name>[^?&;=\s]{1,255})=(?P<value>[^&;\s]{0,4096})")


def is_secret_name(name: str) -> bool:
    """Whether a value of that name has to be masked, also where it is percent-encoded: ``p%61ssword``."""
    unquoted = re.sub(r"%([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), name)
    return _SECRET_NAME.match(unquoted) is not None


def mask_text(text: str) -> str:
    """The text with the password of every URL and the value of every ``password=…`` in it masked.

    For URLs, and for text that may contain one by mistake: a URL given as the port, an unknown flag.
    It works on text that cannot be parsed, too, and so does without SQLAlchemy.
    """

    masked = _WORD.sub(lambda word: _mask_userinfo(word[0]), text)
    return _QUERY_PAIR.sub(_mask_pair, masked)


def _mask_userinfo(word: str) -> str:
    """Mask from the user's colon to the last @ before the query, so that a password with an @, a / or a ? in
    it, which should have been escaped, is masked whole."""
    scheme = _SCHEME.search(word)
    query = _QUERY.search(word)
    start, end = scheme.end() if scheme else 0, query.start() if query else len(word)
    at = word.rfind("@", start, end)
    colon = word.find(":", start, max(at, 0))
    return word if colon < 0 else f"{word[: colon + 1]}{MASK}{word[at:]}"


def _mask_pair(match: re.Match[str]) -> str:
    return f"{match['before']}{match['name']}={MASK}" if is_secret_name(match["name"]) else match[0]


def mask_value(value: Any, *, name: str = "") -> Any:
    """A copy of ``value`` fit to be shown: secrets masked by type, by their key's name, and in URLs."""
    if value is None or isinstance(value, (bool, int, float)):
        return MASK if value is not None and is_secret_name(name) else value
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): mask_value(item, name=str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_value(item, name=name) for item in value]
    if is_secret_name(name):
        return MASK
    # An ssl.SSLContext or a callable among the connect_args: its repr is enough.
    return mask_text(value if isinstance(value, str) else repr(value))
