"""What stands in paths and headers, for the document at ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from db.idempotency import KEY_CHARS_MAX
from handlers.board import examples
from handlers.board.routes import TEAM_ID_MAX

_TAG = '(W/)?"[!#-~]*"'

PARAMETERS: dict[str, Any] = {
    "task_id": {
        "name": "task_id",
        "in": "path",
        "required": True,
        "description": "The task's id.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "example": examples.TASK_ID,
    },
    "team_id": {
        "name": "team_id",
        "in": "path",
        "required": True,
        "description": "The team's number.",
        "schema": {"type": "integer", "minimum": 1, "maximum": TEAM_ID_MAX},
        "example": 1,
    },
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The caller's own id of this request. One that is not 1 to 64 characters of "
        "`[A-Za-z0-9._-]` is replaced, never refused.",
        "schema": {"type": "string"},
        "example": examples.REQUEST_ID,
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes it safe to send the request again: within 24 hours the same key, path, "
        "query and body of the same caller are answered with the first answer that was kept, byte for byte, "
        "and nothing is done twice.",
        "schema": {
            "type": "string",
            "pattern": f"^[!-~]([ -~]{{0,{KEY_CHARS_MAX - 2}}}[!-~])?$",
        },
        "example": "import-2020-04-01-7",
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "description": "Only if the task is still as one of these entity tags has it; else 412. `*` is any.",
        "schema": {"type": "string", "pattern": rf"^(\*|{_TAG}(, {_TAG})*)$"},
        "example": examples.ETAG,
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "304 instead of what the client has already, as its entity tag says.",
        "schema": {"type": "string"},
        "example": examples.ETAG,
    },
}

RESPONSE_HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "required": True,
        "description": "The id that the log and the problem carry too.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "example": examples.REQUEST_ID,
    },
    "Server-Timing": {
        "required": True,
        "description": "What the database took, and COMMIT's part of it, in milliseconds.",
        "schema": {"type": "string", "pattern": r"^db;dur=[0-9.]+, commit;dur=[0-9.]+$"},
        "example": "db;dur=2.1, commit;dur=0.8",
    },
    "ETag": {
        "required": True,
        "description": "The entity tag, for `If-None-Match` and `If-Match`.",
        "schema": {"type": "string", "pattern": '^"[!#-~]+"$'},
        "example": examples.ETAG,
    },
    "Location": {
        "required": True,
        "description": "The path of what was made.",
        "schema": {"type": "string", "pattern": "^/(tasks/[0-9a-f]{32}|teams/[1-9][0-9]*)$"},
        "example": f"/tasks/{examples.TASK_ID}",
    },
    "Retry-After": {
        "required": True,
        "description": "Seconds after which it may be worth asking again.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "example": "1",
    },
    "Idempotency-Replayed": {
        "required": False,
        "description": "This answer was given before, to the same `Idempotency-Key`.",
        "schema": {"type": "string", "const": "true"},
        "example": "true",
    },
    "Allow": {
        "required": True,
        "description": "The methods of this path.",
        "schema": {"type": "string", "pattern": "^[A-Z]+(, [A-Z]+)*$"},
        "example": "GET, HEAD, OPTIONS, POST",
    },
}

HEADERS_OF_ALL: Mapping[str, bool] = MappingProxyType({"X-Request-Id": True})
