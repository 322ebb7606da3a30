"""A committed transaction: as its commit marker has it, and as a token that a client sends back.

A token names the marker's row, and the number of the transaction among those of that row. Neither a position
in the log nor a transaction id: both are issued again after a failover, and a lost write would be taken for
a present one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from typing import NamedTuple

DIGITS = 11
"""Of a number in a marker's row; the first is its sign where the row is closed to further transactions."""

CHARS = 32
"""Of the whole text of such a row: the last transaction's number, that of the row's first, and a mark."""

MARK_CHARS = CHARS - 2 * DIGITS

KEPT_S = 23 * 3600.0
"""A token that is older counts as seen. Rows are deleted when they are a day old; an hour is left for clocks
that differ, and for a transaction that was long."""

_ID_BYTES, _NUMBER_BYTES, _TIME_BYTES, _MAC_BYTES = 16, 6, 5, 15
_PAYLOAD_BYTES = _ID_BYTES + _NUMBER_BYTES + _TIME_BYTES
TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{(_PAYLOAD_BYTES + _MAC_BYTES) * 4 // 3}}}")


def marker_text(number: int, mark: str) -> str:
    """The text that a transaction writes into its row, if the row is new; an older one keeps its first."""
    return f"{number:0{DIGITS}}{number:0{DIGITS}}{mark}"


class Written(NamedTuple):
    """A committed transaction. ``row``: its marker's, 32 hex digits. ``at``: seconds of Unix time."""

    row: str
    number: int
    at: float

    def is_in(self, text: str | None) -> bool:
        """Whether a row with this text shows it; None: there is no such row."""
        if text is None:
            return False
        return int(text[DIGITS : 2 * DIGITS]) <= self.number <= abs(int(text[:DIGITS]))

    @property
    def is_old(self) -> bool:
        """Whether its row may have been deleted since."""
        return time.time() - self.at > KEPT_S


class WriteTokens:
    """Makes tokens, and reads them. Lives as long as its `Database`.

    Args:
        keys: secrets, separated by white space: the first signs, tokens of each are taken. All instances of a
            service have the same.
    """

    def __init__(self, keys: str) -> None:
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys.split()]

    def token_of(self, written: Written) -> str:
        """The token of a transaction."""
        payload = (
            bytes.fromhex(written.row)
            + written.number.to_bytes(_NUMBER_BYTES)
            + int(written.at).to_bytes(_TIME_BYTES)
        )
        return base64.urlsafe_b64encode(payload + _mac(self._keys[0], payload)).decode()

    def read(self, token: str) -> Written | None:
        """The transaction of a token; None where it was not made with one of the keys."""
        if not TOKEN.fullmatch(token):
            return None
        raw = base64.urlsafe_b64decode(token)
        payload, mac = raw[:_PAYLOAD_BYTES], raw[_PAYLOAD_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, payload)) for key in self._keys):
            return None
        row, rest = payload[:_ID_BYTES], payload[_ID_BYTES:]
        return Written(
            row.hex(), int.from_bytes(rest[:_NUMBER_BYTES]), float(int.from_bytes(rest[_NUMBER_BYTES:]))
        )


def _mac(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=key, digest_size=_MAC_BYTES, person=b"onfinish.wrote").digest()
