"""What the scenarios show to be wrong, found in the source of an application's handlers.

The check reads, and runs nothing: what is behind a name is not known to it. So it finds the shapes that the
scenarios have, and a session by its name: ``session``, or an attribute of that name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.compare.scenarios import SCENARIOS


class NotPython(ValueError):
    """A file cannot be read as Python. Names it, and the line."""


@dataclass(frozen=True, order=True)
class Found:
    """A place in a file where something is done that a scenario shows to be wrong."""

    path: str
    line: int
    scenario: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.scenario} ({SCENARIOS[self.scenario].title}): {self.message}"


def lint(paths: Sequence[Path]) -> list[Found]:
    """Check files, and all ``*.py`` in folders, those in hidden ones left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        NotPython: a file has no Python in it.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        for file in _files(path):
            try:
                tree = ast.parse(file.read_bytes(), str(file))
            except (SyntaxError, ValueError) as error:
                raise NotPython(f"{file}:{getattr(error, 'lineno', 1)}: not Python: {error}") from None
            found += [Found(str(file), *each) for each in _check(tree)]
    return sorted({*found})


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*.py")):
        if not any(part.startswith(".") for part in file.relative_to(path).parts):
            yield file


_SENDS_SQL = frozenset(
    [
        "execute",
        "scalars",
        "scalar",
        "query",
        "get",
        "get_one",
        "flush",
        "refresh",
        "merge",
        "commit",
        "connection",
    ]
)

_IN_ANOTHER_THREAD = {
    "run_in_executor": (
        "asyncio_executor",
        "a thread is handed the session, beside the request's own use of it",
    ),
    "to_thread": ("to_thread", "a thread is handed the session, beside the request's own use of it"),
    "submit": ("asyncio_executor", "a thread is handed the session, beside the request's own use of it"),
    "as_future": ("asyncio_executor", "a thread is handed the session, beside the request's own use of it"),
}
_LATER = {
    "create_task": ("outliving_task", "the task may outlive the request, and its session with it"),
    "ensure_future": ("outliving_task", "the task may outlive the request, and its session with it"),
    "add_callback": ("callback_after_finish", "the callback keeps the session beyond its request"),
    "spawn_callback": ("callback_after_finish", "the callback keeps the session beyond its request"),
    "call_soon": ("callback_after_finish", "the callback keeps the session beyond its request"),
    "add_future": ("callback_after_finish", "the callback keeps the session beyond its request"),
    "call_later": ("timer_beside_another", "the timer keeps the session beyond its request"),
    "call_at": ("timer_beside_another", "the timer keeps the session beyond its request"),
}

_RUN = "write `await self.run(function, self.session, …)`"
_OWN_UNIT = "give it a unit of work of its own: `self.in_new_transaction(…)` or `database.unit_of_work()`"

_Place = tuple[int, str, str]


def _check(tree: ast.Module) -> Iterator[_Place]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _check_call(node)
        elif isinstance(node, ast.ClassDef) and _is_handler(node):
            yield from _check_handler(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from _check_variable(node)


def _check_call(call: ast.Call) -> Iterator[_Place]:
    name = _name(call.func)
    if name == "scoped_session":
        keyed = len(call.args) > 1 or any(keyword.arg == "scopefunc" for keyword in call.keywords)
        yield (
            call.lineno,
            "coroutine_prepare" if keyed else "plain_async",
            "code that finds no session in it gets a new one, which nothing commits or closes; "
            "pass the session, or take a ContextvarHandler and `current_session()`",
        )
    elif name in _IN_ANOTHER_THREAD and _mentions_session(call):
        scenario, message = _IN_ANOTHER_THREAD[name]
        yield call.lineno, scenario, f"{message}; {_RUN}"
    elif name in _LATER and _mentions_session(call):
        scenario, message = _LATER[name]
        yield call.lineno, scenario, f"{message}; {_OWN_UNIT}"
    elif name == "gather" and sum(map(_has_session, call.args)) > 1:
        yield call.lineno, "gather", "calls at once share one session; await them one after the other"


def _check_variable(node: ast.Assign | ast.AnnAssign) -> Iterator[_Place]:
    """A context variable for sessions, with a default."""
    value = node.value
    if not (isinstance(value, ast.Call) and _name(value.func) == "ContextVar"):
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    words = [ast.unparse(each) for each in (*targets, value, *_annotation(node))]
    if any(keyword.arg == "default" for keyword in value.keywords) and "session" in " ".join(words).lower():
        yield (
            node.lineno,
            "forgotten",
            "with a default, all callers without a session share what it leads to; leave the default out",
        )


def _annotation(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []


# -- handlers


def _is_handler(node: ast.ClassDef) -> bool:
    return any((_name(base) or "").endswith(("Handler", "SessionMixin")) for base in node.bases)


def _check_handler(node: ast.ClassDef) -> Iterator[_Place]:
    is_mixed = any(_name(base) == "SessionMixin" for base in node.bases)
    if is_mixed and any(map(_is_own_session, ast.walk(node))):
        yield (
            node.lineno,
            "commit_fails",
            "`self.session` of the mixin is committed in `on_finish`, when the answer has been sent; "
            "take `with self.make_session()`, or a SessionHandler",
        )
    is_socket = any((_name(base) or "").endswith("WebSocketHandler") for base in node.bases)
    for method in node.body:
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if method.name == "on_finish":
                yield from _check_on_finish(method)
            elif method.name == "prepare" and is_socket:
                yield from _check_handshake(method)
            else:
                yield from _check_method(method)


def _check_on_finish(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Place]:
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and _name(node.func) == "commit":
            yield (
                node.lineno,
                "commit_fails",
                "the answer has been sent when `on_finish` runs: a COMMIT that fails is behind a "
                "success, and an error's work is kept; commit before the answer, or take a SessionHandler",
            )


def _check_handshake(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Place]:
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and any(map(_is_own_session, node.targets)):
            yield (
                node.lineno,
                "handshake_session",
                "the session of the handshake is over when the socket is open; "
                "take a unit of work a message: SessionWebSocketHandler",
            )


def _check_method(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Place]:
    finished_at: int | None = None
    for node in _own_nodes(method):
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if (
                _is_on_own_session(node.func)
                and name in _SENDS_SQL
                and isinstance(method, ast.AsyncFunctionDef)
            ):
                yield node.lineno, "through_run", f"SQL on the event loop stops all requests; {_RUN}"
            if name == "append" and _mentions_session(node):
                yield from _kept(node.lineno)
            if name == "finish" and _is_self(node.func):
                finished_at = finished_at or node.lineno
            elif finished_at is not None and node.lineno > finished_at and _mentions_session(node):
                yield (
                    node.lineno,
                    "query_after_finish",
                    f"`self.finish()` in line {finished_at} has ended the session's request; "
                    "do it before, or by `self.in_new_transaction(…)`",
                )
        elif isinstance(node, ast.Assign) and _has_session(node.value) and any(map(_outlives, node.targets)):
            yield from _kept(node.lineno)


def _kept(line: int) -> Iterator[_Place]:
    yield (
        line,
        "kept_object",
        "what is kept outlives the request, and its session with it; make it in each request",
    )


def _own_nodes(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a method in the order of their lines, without functions in it: `run` may call those."""
    left: list[ast.AST] = list(method.body)
    found = []
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        found.append(node)
        left += ast.iter_child_nodes(node)
    return iter(sorted(found, key=lambda node: getattr(node, "lineno", 0)))


# -- names


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.id if isinstance(node, ast.Name) else None


def _is_self(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self"


def _is_own_session(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "session" and ast.unparse(node.value) == "self"


def _is_on_own_session(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute):
        return False
    on = function.value
    return _is_own_session(on) or (isinstance(on, ast.Call) and _name(on.func) == "current_session")


def _outlives(target: ast.expr) -> bool:
    """Whether an assignment's target is something else than a local variable or the handler's own."""
    if isinstance(target, ast.Subscript):
        return True
    return isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self"


def _mentions_session(call: ast.Call) -> bool:
    return any(map(_has_session, [*call.args, *(keyword.value for keyword in call.keywords)]))


def _has_session(node: ast.AST) -> bool:
    """Whether a session is named in it, but as the parameter of a function that is in it."""
    if isinstance(node, ast.Lambda) and any(each.arg == "session" for each in node.args.args):
        return False
    if isinstance(node, ast.Name):
        return node.id == "session"
    if isinstance(node, ast.Attribute) and node.attr == "session":
        return isinstance(node.value, ast.Name)
    return any(map(_has_session, ast.iter_child_nodes(node)))
