"""Programs: what one request does, as a list of steps; and how a random one is made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

ATTEMPTS_MAX = 3
"""The default of the setting ``attempts_max``."""

TIMEOUT_S = 0.15
"""The deadline of a program in which something hangs."""

# -- what a function does that is given the session

QUIET = ("writes", "adds", "reads", "is slow", "is slow at COMMIT")
"""Nothing goes wrong. "adds" leaves its row to the flush at the settling."""

REFUSED = {"is refused": 409, "is refused at COMMIT": 409}

CONFLICTING = {  # how many attempts meet it
    "conflicts": 1,
    "conflicts always": ATTEMPTS_MAX,
    "conflicts at COMMIT": 1,
    "conflicts at COMMIT always": ATTEMPTS_MAX,
    "conflicts in a flush hook": 1,
    "loses the connection": 1,
    "loses the connection at COMMIT": 1,
}

FAULTY = (
    "raises",
    "panics",
    "exits",
    "ends its greenlet",
    "raises in a flush hook",
    "panics in a flush hook",
    "exits in a flush hook",
    "ends its greenlet in a flush hook",
)
"""Each is answered with 500. A panic is what PyO3 raises: a BaseException of a class of its own."""

HANGING = ("hangs",)
"""A statement that does not end for a minute: only in a program with a deadline."""

DOUBTFUL = ("hangs at COMMIT",)
"""After this alone may an answer say that the outcome is unknown. It takes two seconds: never at random."""

READING = ("reads", "is slow", "conflicts", "raises", "panics", "exits", "ends its greenlet")
"""What a GET may do. It may also write, and is refused."""


class Step:
    """One thing that a handler does. A constant of its program."""


@dataclass(frozen=True)
class Run(Step):
    """``self.run(function)``.

    Args:
        how: "awaited"; "swallowed": whatever it raises; "forgotten": the call is made and not awaited;
            "task": in a task that is not awaited; "wait_for": given up on after a moment; "wait_for,
            swallowed": that, and the handler goes on.
    """

    does: str = "writes"
    how: str = "awaited"


@dataclass(frozen=True)
class Commit(Step):
    """``self.commit()``. ``how`` as in `Run`, or "cancelled": in a task that is, when it has begun."""

    how: str = "awaited"


@dataclass(frozen=True)
class Before(Step):
    """``self.before_commit(function)``."""

    does: str = "writes"


@dataclass(frozen=True)
class After(Step):
    """``self.on_commit(function)``."""

    does: str = "is called"


@dataclass(frozen=True)
class Afterwards(Step):
    """``self.in_new_transaction(function)``."""

    does: str = "writes"


@dataclass(frozen=True)
class Raise(Step):
    """Raise an error."""

    what: str = "ValueError"


@dataclass(frozen=True)
class Status(Step):
    """``self.set_status(code)``."""

    code: int = 404


@dataclass(frozen=True)
class Finish(Step):
    """``self.finish()``. Of what follows, only what raises is done."""


@dataclass(frozen=True)
class Redirect(Step):
    """``self.redirect("/elsewhere")``."""


@dataclass(frozen=True)
class Later(Step):
    """``self._auto_finish = False``, and a callback that answers, or that never comes."""

    answers: bool = True


@dataclass(frozen=True)
class Sleep(Step):
    """Wait for something that is no database.

    Args:
        how: "a moment"; "past the deadline": until that cancels it; "through the deadline": it swallows that.
    """

    how: str = "a moment"


@dataclass(frozen=True)
class Cancel(Step):
    """Cancel the request's own task; ``swallowed``, it goes on."""

    swallowed: bool = False


@dataclass(frozen=True)
class Leave(Step):
    """The client closes its connection, and the server notices."""


@dataclass(frozen=True)
class Group(Step):
    """An `asyncio.TaskGroup` with one task for each branch."""

    branches: tuple[tuple[Step, ...], ...] = ()


@dataclass(frozen=True)
class Program:
    """One request.

    Args:
        prepare: done in ``prepare``, behind ``super()``.
        timeout_s: the handler's own deadline; None: the application's, which is not reached.
        cancels: ``cancel_on_disconnect``.
        busy: on SQLite, another process holds the file's write lock while the first attempt runs.
    """

    steps: tuple[Step, ...] = ()
    method: str = "POST"
    prepare: tuple[Step, ...] = ()
    timeout_s: float | None = None
    cancels: bool = False
    busy: bool = False


def every_step(steps: tuple[Step, ...]) -> list[Step]:
    """The steps, those of groups included."""
    found: list[Step] = []
    for step in steps:
        found.append(step)
        for branch in step.branches if isinstance(step, Group) else ():
            found += every_step(branch)
    return found


# -- random ones. What comes first in a list is what a failing example is shrunk to.

_OFTEN = 3
"""How much more often nothing goes wrong in a step than each thing that may."""

_HOW_AWAITED = ["awaited"] * 4 + ["swallowed", "wait_for", "wait_for, swallowed", "task", "forgotten"]
_HOW_COMMITTED = ["awaited"] * 3 + ["swallowed", "wait_for", "wait_for, swallowed", "task", "cancelled"]
_AFTER = ["is called", "awaits", "raises", "meets a cancelled task", "panics"]
_RAISED = [
    "ValueError",
    "404",
    "503",
    "Problem 418",
    "Finish",
    "Panic",
    "RetryableConflict",
    "RetryableConflict always",
]


# Made once each: to make and check them took longer than to play what they give.


@functools.cache
def _work(method: str, *, hangs: bool) -> st.SearchStrategy[str]:
    if method == "GET":
        return st.sampled_from([*READING[:1] * _OFTEN, *READING, "writes", *(HANGING if hangs else ())])
    quiet = ["writes"] * _OFTEN + [*QUIET] * _OFTEN
    return st.sampled_from([*quiet, *REFUSED, *CONFLICTING, *FAULTY, *(HANGING * 6 if hangs else ())])


@functools.cache
def _steps(method: str, *, hangs: bool, deep: bool = True) -> st.SearchStrategy[tuple[Step, ...]]:
    run = st.builds(Run, _work(method, hangs=hangs), st.sampled_from(_HOW_AWAITED))
    kinds: list[st.SearchStrategy[Step]] = [
        *[run] * 4,
        *[st.builds(Commit, st.sampled_from(_HOW_COMMITTED))] * (2 if method == "POST" else 1),
        *_registrations(_work(method, hangs=False)),
        st.builds(Raise, st.sampled_from(_RAISED)),
        st.builds(Status, st.sampled_from([404, 201])),
        st.just(Finish()),
        st.just(Redirect()),
        st.builds(Sleep, st.sampled_from(_sleeps(hangs))),
        st.builds(Cancel, st.booleans()),
        st.builds(Later, st.booleans()),
        st.just(Leave()),
    ]
    if deep:
        branch = _steps(method, hangs=hangs, deep=False)
        kinds += [st.builds(Group, st.lists(branch, min_size=1, max_size=3).map(tuple))] * 2
    return st.lists(_weighted(kinds), max_size=6 if deep else 2).map(tuple)


def _registrations(work: st.SearchStrategy[str]) -> list[st.SearchStrategy[Step]]:
    return [
        st.builds(Before, work),
        st.builds(After, st.sampled_from(_AFTER)),
        st.builds(Afterwards, work),
    ]


def _weighted(kinds: Sequence[st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    """One of these, as often as it stands there: `one_of` takes each once."""
    return st.integers(0, len(kinds) - 1).flatmap(kinds.__getitem__)


def _sleeps(hangs: bool) -> list[str]:
    return ["a moment", *(("past the deadline", "through the deadline") if hangs else ())]


@functools.cache
def _in_prepare(method: str) -> st.SearchStrategy[tuple[Step, ...]]:
    work = st.just("writes" if method == "POST" else "reads")
    kinds: list[st.SearchStrategy[Step]] = [
        *_registrations(work),
        st.just(Redirect()),
        st.builds(Raise, st.sampled_from(_RAISED)),
        st.builds(Run, work),
    ]
    return st.lists(_weighted(kinds), max_size=2).map(tuple)


_TIMED = st.sampled_from([False] * 15 + [True])
_METHODS = st.sampled_from(["POST"] * 5 + ["GET"])
_ONE_IN_THREE = st.sampled_from([False, False, True])


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A random program. One in sixteen has a deadline, which takes as long as that."""
    hangs, method = draw(_TIMED), draw(_METHODS)
    return Program(
        steps=draw(_steps(method, hangs=hangs)),
        method=method,
        prepare=draw(_in_prepare(method)) if draw(_ONE_IN_THREE) else (),
        timeout_s=TIMEOUT_S if hangs else None,
        cancels=draw(_ONE_IN_THREE),
    )
