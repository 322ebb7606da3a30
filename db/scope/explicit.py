"""The session is an argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from db.scope.base import Scope

P = ParamSpec("P")
R = TypeVar("R")


class Explicit(Scope):
    """Passes the session on. Keeps nothing, so there is nothing to enter or to leave."""

    name = "explicit"

    def enter(self, session: Session) -> None:
        """Nothing: the session is passed as an argument."""

    def leave(self, entered: object) -> None:
        """Nothing."""

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        return partial(function, session)
