"""How each scope comes by a session, without any server."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from db.scope import SCOPES, NoSession, Scope
from db.scope.contextvar import Entry

AMBIENT = ["contextvar", "registry", "threadlocal"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


@pytest.fixture
def scope(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Scope]:
    name: str = request.param
    scope = SCOPES[name](engine)
    yield scope
    scope.close()


def which(session: Session, *, sign: str = "") -> str:
    """A model function: whose session it works with."""
    return str(session.info.get("name", "unnamed")) + sign


def named(name: str) -> Session:
    return Session(info={"name": name})


@pytest.mark.parametrize("scope", SCOPES, indirect=True)
def test_a_bound_function_works_with_the_session_that_was_entered(scope):
    """All four: within enter and leave it is that session; the other arguments are passed on."""
    mine = named("mine")

    with scope.entered(mine):
        assert scope.bind(which, mine)(sign="!") == "mine!"

    assert not scope.made


@pytest.mark.parametrize("scope", ["contextvar"], indirect=True)
def test_a_contextvar_refuses_where_nothing_was_entered(scope):
    """Before, after and in another thread: an error that names the way out, and no session."""
    mine = named("mine")
    raised: list[BaseException] = []

    def elsewhere() -> None:
        with pytest.raises(NoSession) as caught:
            scope.bind(which, mine)()
        raised.append(caught.value)

    with pytest.raises(NoSession, match="no session in this context"):
        contextvars.Context().run(scope.bind(which, mine))
    with scope.entered(mine):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    with pytest.raises(NoSession, match="has ended"):
        scope.bind(which, mine)()

    assert len(raised) == 1


@pytest.mark.parametrize("scope", ["contextvar"], indirect=True)
def test_entering_a_contextvar_twice_comes_back_to_the_first(scope):
    """An audit row's session inside of a request's, and then the request's again."""
    outer, inner = named("outer"), named("inner")

    with scope.entered(outer):
        with scope.entered(inner):
            assert scope.bind(which, outer)() == "inner"
        assert scope.bind(which, outer)() == "outer"


@pytest.mark.parametrize("scope", ["contextvar"], indirect=True)
def test_a_context_keeps_one_of_the_entries_that_were_left_in_it(scope):
    """The last, for an error that names its owner: a job enters a session at each of its runs."""

    def enter_and_leave() -> int:
        for number in range(3):
            scope.leave(scope.enter(named(str(number))))
        return sum(isinstance(each, Entry) for each in gc.get_objects())

    before = sum(isinstance(each, Entry) for each in gc.get_objects())

    assert contextvars.Context().run(enter_and_leave) == before + 1


@pytest.mark.parametrize("scope", ["contextvar"], indirect=True)
def test_a_contextvar_may_be_left_in_another_context(scope):
    """As by a child task that calls finish(): nothing is raised, and the other context ends by itself."""
    mine = named("mine")

    async def entered_and_left_elsewhere() -> None:
        async def enter() -> object:
            return scope.enter(mine)

        handle = await asyncio.create_task(enter())
        scope.leave(handle)
        with pytest.raises(NoSession):
            scope.bind(which, mine)()

    asyncio.run(entered_and_left_elsewhere())


@pytest.mark.parametrize("scope", ["registry", "threadlocal"], indirect=True)
def test_a_registry_makes_a_session_where_nothing_was_entered(scope):
    """There is no error: the caller gets a session that is never committed or closed."""
    mine = named("mine")

    assert scope.bind(which, mine)() == "unnamed"
    assert len(scope.made) == 1


@pytest.mark.parametrize("scope", ["registry"], indirect=True)
def test_callers_outside_of_any_request_share_one_session_of_the_registry(scope):
    """Their key is the default of the variable, None: from all threads and contexts the same."""
    seen: list[Session] = []

    def elsewhere() -> None:
        seen.append(scope.sessions())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    contextvars.Context().run(elsewhere)

    assert seen[0] is seen[1]


@pytest.mark.parametrize("scope", ["threadlocal"], indirect=True)
def test_the_last_to_enter_has_the_thread(scope):
    """Two requests on one loop: the second's session is what the first one finds."""
    first, second = named("first"), named("second")

    scope.enter(first)
    scope.enter(second)

    assert scope.bind(which, first)() == "second"
    scope.leave(None)


@pytest.mark.parametrize("scope", ["registry", "threadlocal"], indirect=True)
def test_leaving_closes_what_the_registry_made_and_not_what_it_was_given(scope):
    """A unit of work ends its own session, and would refuse to have it closed by another."""

    class Owned(Session):
        def close(self) -> None:
            raise AssertionError("closed by other code")

    with scope.entered(Owned()):
        pass
    made = scope.sessions()
    made.begin()
    scope.leave(None)

    assert not made.in_transaction()
    assert not scope.sessions.registry.has()


@pytest.mark.parametrize("scope", AMBIENT, indirect=True)
def test_a_function_carried_by_run_is_called_as_it_is(scope):
    """With all its arguments, and its result comes back."""
    mine = named("mine")

    def add(one: int, *, other: int) -> int:
        return one + other

    # As `run` does: what is carried may set the variable of its context, which no later test is to find.
    assert contextvars.copy_context().run(scope.carry(add, mine), 1, other=2) == 3
