"""The headers of requests and responses that the kernel itself reads and writes, as the document has them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from db.idempotency import KEPT_FOR, KEY_CHARS_MAX
from handlers.lifecycle.errors import RETRY_AFTER_S
from handlers.lifecycle.write_tokens import LOST, READ_AFTER, TOKENS_MAX, WROTE
from handlers.request_id import CHARS_MAX

REQUEST_ID = "5f0c7e0c1d3f4b7c8a51f3f0d6f4f6f1"
TOKEN = "AK8pu1vkS8mTwXwTzW9ZPgAAAAAABwBnSDZeqk5DnP0fYHf0pKqVB3kz"
ETAG = '"1-5a72bb5ba2eb5"'

_TAG = '(W/)?"[!#-~]*"'

REQUEST_HEADERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "X-Request-Id": {
            "description": f"The caller's own id of this request. One that is not 1 to {CHARS_MAX} "
            "characters of `[A-Za-z0-9._-]` is replaced, never refused.",
            "schema": {"type": "string"},
            "example": REQUEST_ID,
        },
        "Idempotency-Key": {
            "description": "Makes it safe to send the request again: within "
            f"{KEPT_FOR // timedelta(hours=1)} hours the same key, path, query and body of the same caller "
            "are answered with the first answer that was kept, byte for byte, and nothing is done twice.",
            "schema": {"type": "string", "pattern": f"^[!-~]([ -~]{{0,{KEY_CHARS_MAX - 2}}}[!-~])?$"},
            "example": "import-2020-04-01-7",
        },
        "If-Match": {
            "description": "Only if the resource is still as one of these entity tags has it; else 412. "
            "`*` is any.",
            "schema": {"type": "string", "pattern": rf"^(\*|{_TAG}(, {_TAG})*)$"},
            "example": ETAG,
        },
        READ_AFTER: {
            "description": f"The answer has what these writes have written: up to {TOKENS_MAX} tokens, each "
            f"as the header `{WROTE}` had it.",
            "schema": {"type": "string"},
            "example": TOKEN,
        },
        "If-None-Match": {
            "description": "304 instead of what the client has already, as its entity tag says.",
            "schema": {"type": "string"},
            "example": ETAG,
        },
    }
)

RESPONSE_HEADERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "X-Request-Id": {
            "required": True,
            "description": "The id that the log and the problem carry too.",
            "schema": {"type": "string", "pattern": f"^[A-Za-z0-9._-]{{1,{CHARS_MAX}}}$"},
            "example": REQUEST_ID,
        },
        "Server-Timing": {
            "required": True,
            "description": "What the database took, and COMMIT's part of it, in milliseconds. In development "
            "also the number of statements.",
            "schema": {
                "type": "string",
                "pattern": r'^db;dur=[0-9.]+(;desc="[0-9]+ statements?")?, commit;dur=[0-9.]+$',
            },
            "example": "db;dur=2.1, commit;dur=0.8",
        },
        "ETag": {
            "required": True,
            "description": "The entity tag, for `If-None-Match` and `If-Match`.",
            "schema": {"type": "string", "pattern": '^"[!#-~]+"$'},
            "example": ETAG,
        },
        "Retry-After": {
            "required": True,
            "description": "Seconds after which it may be worth asking again.",
            "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
            "example": str(RETRY_AFTER_S),
        },
        "Idempotency-Replayed": {
            "required": False,
            "description": "This answer was given before, to the same `Idempotency-Key`.",
            "schema": {"type": "string", "const": "true"},
            "example": "true",
        },
        WROTE: {
            "required": False,
            "description": f"The token of what was written, for `{READ_AFTER}` of the reads that follow. "
            "Absent where nothing was.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{56}$"},
            "example": TOKEN,
        },
        LOST: {
            "required": False,
            "description": f"A write that `{READ_AFTER}` names is lost, by a failover. Errors carry it too.",
            "schema": {"type": "string", "const": "1"},
            "example": "1",
        },
        "Allow": {
            "required": True,
            "description": "The methods of this path.",
            "schema": {"type": "string", "pattern": "^[A-Z]+(, [A-Z]+)*$"},
            "example": "GET, HEAD, OPTIONS, POST",
        },
    }
)
"""By name. ``Location`` is not among them: it is made of the routes."""
