"""Detects a subclass that overrides a hook of the lifecycle and does not call ``super()``."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import Any

from tornado.websocket import WebSocketHandler

HOOKS = ("prepare", "on_finish", "log_exception")


def check_overrides(handler: type, base: type) -> None:
    """Refuse a class whose hooks cannot reach those of ``base``, or that is a WebSocket's.

    Examines the names that a hook's code uses, so it finds `super().prepare()` and `Base.prepare(self)`, also
    below a decorator that keeps ``__wrapped__``. A hook without Python code passes; the first request detects
    it then.

    Raises:
        TypeError: names the class, the hook and the line to add.
    """
    if issubclass(handler, WebSocketHandler):
        raise TypeError(
            f"{handler.__qualname__} is a WebSocket handler: its handshake cannot be held until a COMMIT. "
            "`SessionWebSocketHandler` gives each message a session of its own"
        )
    for name in HOOKS:
        for owner in handler.__mro__:
            if owner is base:
                break
            hook = owner.__dict__.get(name)
            if hook is not None and not _mentions(inspect.unwrap(hook), name):
                raise TypeError(forgotten(owner, name))


def forgotten(owner: type, hook: str) -> str:
    """The message for a hook that does not call ``super()``."""
    arguments = "*args" if hook == "log_exception" else ""
    return (
        f"{owner.__module__}.{owner.__qualname__}.{hook}() overrides a hook of the session's lifecycle: "
        f"add `super().{hook}({arguments})`, or its session is never made, or never settled"
    )


def _mentions(hook: Any, name: str) -> bool:
    code = getattr(hook, "__code__", None)
    return code is None or _uses(code, name)


def _uses(code: CodeType, name: str) -> bool:
    return name in code.co_names or any(
        _uses(constant, name) for constant in code.co_consts if isinstance(constant, CodeType)
    )
