"""Private names of Tornado and SQLAlchemy: each in one module, with why, and a test that it is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy
import tornado
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler, stream_request_body

from db import Database
from db.engines import _sqlalchemy as of_sqlalchemy
from db.engines._sqlalchemy import AsyncioPoolInside, QueuePoolInside
from db.engines.idle_pool import IdleAsyncPool
from handlers import SessionHandler
from handlers.lifecycle import _tornado as of_tornado
from server.edge import _tornado as of_the_edge
from tests.fixtures.server import Serve

ROOT = Path(__file__).resolve().parent.parent.parent

PACKAGES = ("conf", "db", "handlers", "server")

MODULES = {
    "db/engines/_sqlalchemy.py",
    "handlers/lifecycle/_tornado.py",
    "server/edge/_tornado.py",
    "server/compare/world.py",  # it watches the coroutine that runs a handler, for the comparison alone
}
"""Where private names may stand, one module for each library and layer."""

PUBLIC = {"_replace", "_asdict", "_fields"}
"""Of a named tuple: documented."""

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC and len(name) > 1


def _is_theirs(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("tornado", "sqlalchemy")


def set_on_self(module: ModuleType) -> set[str]:
    """The names that a module's methods set on ``self``."""
    try:
        # Of the whole module at once: for the source of one class `inspect` parses all of its module.
        source = inspect.getsource(module)
    except (OSError, TypeError):  # it is made at run time, or compiled
        return set()
    return set(re.findall(r"self\.(_[a-zA-Z]\w*)\b[^=\n]*=[^=]", source))


@cache
def private_names() -> frozenset[str]:
    """All private names of both libraries, of their modules and classes."""
    names: set[str] = set()
    for library in (tornado, sqlalchemy):
        for info in pkgutil.walk_packages(library.__path__, f"{library.__name__}."):
            if re.search(r"\.(test|testing|platform|dialects\.(oracle|mssql))\b|curl|_cy\b", info.name):
                continue
            try:
                module = importlib.import_module(info.name)
            except ImportError:  # it needs what is not installed
                continue
            names.update(filter(_is_private, {*vars(module), *set_on_self(module)}))
            for kind in vars(module).values():
                if isinstance(kind, type) and _is_theirs(kind.__module__):
                    names.update(filter(_is_private, vars(kind)))
    return frozenset(names)


def own_names(tree: ast.AST) -> set[str]:
    """The private names that a module defines: functions, classes, variables, attributes of ``self``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(attr=name, value=ast.Name(id="self"), ctx=ast.Store()):
                names.add(name)
    return names


def uses_in(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The private names that a module uses of others: imported, read of an object, or written on one."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=module, names=names) if _is_theirs(module):
                yield from (name.name for name in names if _is_private(name.name))
            case ast.Attribute(attr=name, value=value) if _is_private(name):
                of_itself = isinstance(value, ast.Name) and value.id in ("self", "cls")
                if (
                    name in private_names()
                    and not (name in known and of_itself)
                    and _is_foreign(value, known)
                ):
                    yield name
            case ast.Constant(value=str(name)) if _is_private(name) and hasattr(RequestHandler, name):
                yield name


def _is_foreign(value: ast.expr, known: set[str]) -> bool:
    """Whether an object may be a library's: one that the module names by an argument, or that it imports."""
    return not (isinstance(value, ast.Name) and value.id in known - {"self"})


def sources() -> Iterator[tuple[str, ast.AST]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def test_private_names_are_used_in_their_modules_alone():
    """Also as text, as `getattr` and metaclasses take them."""
    trees = dict(sources())
    known = set().union(*map(own_names, (tree for path, tree in trees.items() if path not in MODULES)))

    found = {
        f"{path}: {name}"
        for path, tree in trees.items()
        if path not in MODULES
        for name in uses_in(tree, own_names(tree))
        if name not in known or hasattr(RequestHandler, name)
    }

    assert found == set()


def test_a_use_would_be_found():
    found = [
        *uses_in(ast.parse("from tornado.web import _has_stream_request_body"), set()),
        *uses_in(ast.parse("handler._log()"), set()),
        *uses_in(ast.parse("engine._connection_cls = object"), set()),
        *uses_in(ast.parse("getattr(kind, '_stream_request_body')"), set()),
        *uses_in(ast.parse("class A:\n    def f(self): return self._headers_written"), set()),
    ]

    assert found == [
        "_has_stream_request_body",
        "_log",
        "_connection_cls",
        "_stream_request_body",
        "_headers_written",
    ]


# -- of Tornado


def test_stream_request_body_is_seen():
    @stream_request_body
    class Streaming(RequestHandler):
        """Reads its body as it comes."""

    assert of_tornado.has_stream_request_body(Streaming)
    assert not of_tornado.has_stream_request_body(RequestHandler)
    assert vars(Streaming)[of_tornado.STREAMS_BODY] is True


@pytest.mark.gen_test
@on_sqlite
async def test_the_access_line_is_written_by_a_hook_of_finish_before_on_finish(
    serve: Serve, database: Database
):
    calls: list[str] = []

    class Handler(SessionHandler):
        def get(self) -> None:
            self.finish("done")
            calls.append("finished")

        def access_line_is_due(self) -> None:
            calls.append("access line")
            super().access_line_is_due()

        def on_finish(self) -> None:
            calls.append("on_finish")
            super().on_finish()

        def log_answer(self) -> None:
            calls.append("written")
            super().log_answer()

    def log_function(handler: RequestHandler) -> None:
        calls.append("log_function")

    await serve(Application([("/", Handler)], database=database, log_function=log_function)).get("/")

    assert calls[:2] == ["access line", "on_finish"]
    assert calls[2:-1] == ["written", "log_function"]
    assert calls[-1] == "finished"


@pytest.mark.gen_test
async def test_a_connection_is_closed_after_its_response(serve: Serve):
    """Set while the request is under way, when Tornado has read the headers."""

    class Handler(RequestHandler):
        def get(self) -> None:
            of_the_edge.disconnect_after_response(self.request.connection)

    answer = await serve(Application([("/", Handler)])).get("/")

    assert answer.headers["Connection"] == "close"


@pytest.mark.gen_test
async def test_the_name_of_that_is_tornados_own():
    ours, theirs = socket.socketpair()
    stream = IOStream(ours)
    connection = HTTP1Connection(stream, is_client=False)

    assert connection._disconnect_on_finish is False
    stream.close()
    theirs.close()


@pytest.mark.gen_test
async def test_the_stack_of_a_request_has_the_coroutine_that_runs_it(serve: Serve):
    class Handler(RequestHandler):
        def get(self) -> None:
            frame, codes = inspect.currentframe(), []
            while frame is not None:
                codes.append(frame.f_code)
                frame = frame.f_back
            self.finish(str(of_the_edge.EXECUTE in codes))

    assert (await serve(Application([("/", Handler)])).get("/")).body == b"True"


# -- of SQLAlchemy


def test_an_engine_makes_connections_of_the_class_that_is_set():
    class Own(Connection):
        """A class of one's own."""

    engine = create_engine("sqlite://")
    of_sqlalchemy.set_connection_class(engine, Own)

    with engine.connect() as connection:
        assert type(connection) is Own
    engine.dispose()


def test_sessions_are_counted_while_they_live():
    before = of_sqlalchemy.sessions_alive()
    session = Session()

    assert of_sqlalchemy.sessions_alive() == before + 1
    session.close()
    del session
    assert of_sqlalchemy.sessions_alive() == before


def test_idle_connections_are_taken_out_of_the_pool():
    engine = create_engine(
        "sqlite:///file:taken?mode=memory&uri=true", poolclass=QueuePoolInside, pool_size=2, max_overflow=3
    )
    pool: Any = engine.pool
    connections = [engine.connect() for _ in range(4)]
    for connection in connections:
        connection.close()

    assert pool.connections_max == 5
    assert pool.checkedin() == 2  # the overflow was closed
    assert pool.take_out(lambda record: True, keep=1) == 1
    assert pool.checkedin() == 1
    assert pool.take_out(lambda record: False, keep=0) == 0
    again = [engine.connect() for _ in range(5)]  # what was taken out may be opened again
    assert pool.checkedout() == 5
    for connection in again:
        connection.close()
    engine.dispose()


def test_an_asyncio_driver_takes_the_pool_that_is_marked_for_it():
    create_engine("sqlite+aiosqlite://", poolclass=AsyncioPoolInside)
    create_engine("sqlite+aiosqlite://", poolclass=IdleAsyncPool)

    with pytest.raises(sqlalchemy.exc.ArgumentError, match="asyncio"):
        create_engine("sqlite+aiosqlite://", poolclass=QueuePool)


def test_private_names_are_found():
    assert {"_log", "_execute", "_connection_cls"} <= private_names()


def test_a_check_that_a_type_makes_is_told_from_one_of_the_table():
    """`is_of_a_type`: a revision that writes both would make it twice."""
    table = sqlalchemy.Table(
        "things",
        sqlalchemy.MetaData(),
        sqlalchemy.Column("colour", sqlalchemy.Enum("red", "blue", name="colour", create_constraint=True)),
        sqlalchemy.CheckConstraint("colour <> 'blue'", name="not_blue"),
    )

    checks = [each for each in table.constraints if isinstance(each, sqlalchemy.CheckConstraint)]

    assert {str(each.name): of_sqlalchemy.is_of_a_type(each) for each in checks} == {
        "colour": True,
        "not_blue": False,
    }
