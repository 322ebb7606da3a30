"""The service with a trace of each of its threads, in CPU time. Started by `tests.bench.profile`.

SIGUSR1 forgets what was noted until then. At its end what was noted goes to the file of the environment's
``PROFILE``.

Not cProfile: since Python 3.12 it mixes threads up, it follows no greenlet, and it counts its own work as
that of what it looks at.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time
from types import CodeType, FrameType
from typing import Any

from server.cli import main

try:
    getcurrent: Callable[[], Any] = importlib.import_module("greenlet").getcurrent
except ModuleNotFoundError:  # the extra ``async`` brings it; without it there is nothing to tell apart

    def getcurrent() -> Any:
        return None


_LOOKS, _CALLS = 50, 200

Function = tuple[str, int, str]
"""File, line and name; a builtin's file is ``~``."""


class Node:
    """A function as it is called from one place. Lives as long as the profile."""

    __slots__ = ("key", "parent", "children", "own_s", "pieces", "calls")

    def __init__(self, key: CodeType | str, parent: Node | None) -> None:
        self.key = key
        self.parent = parent
        self.children: dict[CodeType | str, Node] = {}
        self.own_s = 0.0
        self.pieces = 0
        """How many times were added up in that: each has the cost of looking at the clock in it."""
        self.calls = 0

    @property
    def function(self) -> Function:
        """What is called."""
        key = self.key
        return (
            ("~", 0, key) if isinstance(key, str) else (key.co_filename, key.co_firstlineno, key.co_qualname)
        )

    def forget(self) -> None:
        """Begin anew."""
        self.own_s, self.pieces, self.calls = 0.0, 0, 0
        for child in list(self.children.values()):
            child.forget()


class Trace:
    """What one thread does. Lives as long as the profile; the interpreter calls it at each call and return.

    Time passes between two of its calls, and none within one.
    """

    def __init__(self) -> None:
        self.root = Node("a thread", None)
        self._node = self.root
        self._greenlet = getcurrent()
        self._nodes: dict[Any, Node] = {}
        self._looks = True
        self._at_s = thread_time()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._looks:
            return
        node = self._node
        node.own_s += thread_time() - self._at_s
        node.pieces += 1
        current = getcurrent()
        if current is not self._greenlet:
            if not self._greenlet.dead:
                self._nodes[self._greenlet] = node
            node = self._nodes.pop(current, node)
            self._greenlet = current
        if event == "call" or event == "c_call":
            key = frame.f_code if event == "call" else _name_of(argument)
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node(key, node)
            child.calls += 1
            node = child
        else:
            node = node.parent or node
        self._node = node
        self._at_s = thread_time()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Look away in the block, which its thread has to leave again."""
        self._looks = False
        yield
        self._looks = True
        self._at_s = thread_time()


def _name_of(builtin: Any) -> str:
    return f"{builtin.__module__ or type(builtin.__self__).__module__}.{builtin.__qualname__}"


traces: list[Trace] = []


def begin(frame: FrameType, event: str, argument: Any) -> None:
    """Trace the calling thread from now on."""
    trace = Trace()
    traces.append(trace)
    sys.setprofile(trace)


def forget(*signal: object) -> None:
    """Begin anew; called in the main thread, whose trace is the first."""
    with traces[0].paused():
        for trace in traces:
            trace.root.forget()
        # The collector is not to go through all of this again, at the cost of code that allocates.
        gc.collect()
        gc.freeze()


def look_s() -> float:
    """What looking at the clock costs, which is in each time: the least of some calls that do nothing."""
    found = []
    for _ in range(_LOOKS):
        trace = Trace()
        sys.setprofile(trace)
        for _ in range(_CALLS):
            len(())
        sys.setprofile(None)
        nothing = trace.root.children["builtins.len"]
        found.append(nothing.own_s / nothing.pieces)
    return min(found)


def summary() -> dict[str, Any]:
    """What was noted: functions, and what builtins took by their callers."""
    functions: dict[Function, list[float]] = {}
    builtins: dict[tuple[Function, Function], list[float]] = {}

    def add(node: Node, path: tuple[Function, ...]) -> tuple[float, int]:
        function = node.function
        below = [add(child, (*path, function)) for child in node.children.values()]
        all_s = node.own_s + sum(seconds for seconds, _ in below)
        all_pieces = node.pieces + sum(pieces for _, pieces in below)
        found = functions.setdefault(function, [0.0] * 5)
        found[0] += node.calls
        found[1] += node.own_s
        found[2] += node.pieces
        if function not in path:  # else it is in what the outer one takes
            found[3] += all_s
            found[4] += all_pieces
        if function[0] == "~":
            one = builtins.setdefault((path[-1] if path else function, function), [0.0, 0.0])
            one[0] += node.own_s
            one[1] += node.pieces
        return all_s, all_pieces

    for trace in traces:
        add(trace.root, ())
    return {
        "look_s": look_s(),
        "functions": [[*function, *found] for function, found in functions.items()],
        "builtins": [[*caller, *function, *one] for (caller, function), one in builtins.items()],
    }


def serve() -> int:
    """Serve as ever."""
    signal.signal(signal.SIGUSR1, forget)
    threading.setprofile(begin)
    sys.setprofile(begin)
    try:
        return main()
    finally:
        sys.setprofile(None)
        path = Path(os.environ["PROFILE"])
        part = path.with_suffix(".part")
        part.write_text(json.dumps(summary()))
        part.rename(path)


if __name__ == "__main__":
    sys.exit(serve())
