"""Idempotency-Key between callers: a replay is for the caller whose request it was, behind the checks."""

from __future__ import annotations

import asyncio
import functools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado import gen
from tornado.web import HTTPError, RequestHandler, authenticated, stream_request_body

from handlers import ApiHandler
from handlers.idempotency import IdempotentHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer, Client
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import Note, add_note, count_notes, get_note

pytestmark = pytest.mark.gen_test


async def ask(client: Client, user: str | None = None, *, key: str = "k", path: str = "/") -> Answer:
    headers = {"Idempotency-Key": key} | ({} if user is None else {"X-User": user})
    return await client.post(path, headers=headers)


def was_replayed(answer: Answer) -> bool:
    return "Idempotency-Replayed" in answer.headers


class Secret(IdempotentHandler, ApiHandler):
    """Keeps a note of its caller's, and answers with it."""

    user = ""

    async def post(self) -> None:
        number = await self.run(add_note, self.session, text=f"{self.user} {uuid.uuid4()}")
        self.set_status(201)
        self.write(f"the secret of {self.user}, {number}")

    def checked_user(self) -> str:
        """The caller that the request names.

        Raises:
            HTTPError: 401 without one.
        """
        user = self.request.headers.get("X-User")
        if user is None:
            raise HTTPError(401)
        return user


class Awaited(Secret):
    async def prepare(self) -> None:
        waiting = super().prepare()
        assert waiting is not None
        await waiting
        self.user = self.current_user = self.checked_user()


class NotAwaited(Secret):
    """The form that was a misuse: what `super().prepare()` returns is dropped."""

    async def prepare(self) -> None:
        super().prepare()
        await asyncio.sleep(0)
        self.user = self.current_user = self.checked_user()


class Plain(Secret):
    def prepare(self) -> None:
        super().prepare()
        self.user = self.current_user = self.checked_user()


class Coroutine(Secret):
    @gen.coroutine
    def prepare(self) -> Generator[Any, Any, None]:
        yield super().prepare()
        self.user = self.current_user = self.checked_user()


class Checking(RequestHandler):
    """A mixin that knows nothing of sessions."""

    async def prepare(self) -> None:
        waiting = super().prepare()
        if waiting is not None:
            await waiting
        user = self.request.headers.get("X-User")
        if user is None:
            raise HTTPError(401)
        self.user = self.current_user = user


class Mixed(Checking, Secret):
    pass


class FromDatabase(Secret):
    """Looks its caller up in the request's own session."""

    async def prepare(self) -> None:
        super().prepare()
        user = self.checked_user()
        await self.run(count_notes, self.session)
        self.user = self.current_user = user


class Decorated(Secret):
    def get_current_user(self) -> str | None:
        return self.request.headers.get("X-User")

    @authenticated
    async def post(self) -> None:  # type: ignore[override]
        self.user = self.current_user
        await super().post()


def with_api_key(method: Callable[..., Any]) -> Callable[..., Any]:
    """A check of an application's own that sets no `current_user`."""

    @functools.wraps(method)
    def checked(self: Secret, *args: Any) -> Any:
        self.user = self.checked_user()
        return method(self, *args)

    return checked


class ApiKey(Secret):
    @with_api_key
    async def post(self) -> None:
        await super().post()

    def idempotency_principal(self) -> str:
        return self.user


FORMS = [Awaited, NotAwaited, Plain, Coroutine, Mixed, FromDatabase, Decorated, ApiKey]


@pytest.mark.every_driver
@pytest.mark.parametrize("form", FORMS)
async def test_a_replay_is_for_its_own_caller_alone(mount: Mount, notes: Notes, form: type[Secret]):
    """In whatever form it checks: a caller without a login is refused, another one gets its own answer."""
    client = mount(form)

    first = await ask(client, "alice")
    stranger = await ask(client)
    other = await ask(client, "bob")
    again = await ask(client, "alice")
    others_again = await ask(client, "bob")

    assert (first.code, other.code) == (201, 201)
    assert b"of alice" in first.body
    assert stranger.code in (401, 403)
    assert b"alice" not in stranger.body
    assert b"of bob" in other.body
    assert not was_replayed(other)
    assert (again.code, again.body, was_replayed(again)) == (201, first.body, True)
    assert (others_again.code, others_again.body, was_replayed(others_again)) == (201, other.body, True)
    assert [text.split()[0] for text in notes()] == ["alice", "bob"]


async def test_a_check_in_a_decorator_comes_before_the_replay(mount: Mount, notes: Notes):
    """One that sets no `current_user`, on a handler whose principal is the same for all callers."""

    class Handler(Secret):
        @with_api_key
        async def post(self) -> None:
            await super().post()

    client = mount(Handler)
    first = await ask(client, "alice")
    stranger = await ask(client)

    assert first.code == 201
    assert (stranger.code, was_replayed(stranger)) == (401, False)


async def test_a_redirect_in_prepare_comes_before_the_replay(mount: Mount, notes: Notes):
    class Handler(Secret):
        async def prepare(self) -> None:
            super().prepare()
            if "X-User" not in self.request.headers:
                self.redirect("/login", status=303)

    client = mount(Handler)
    first = await ask(client, "alice")
    stranger = await ask(client)
    again = await ask(client, "alice")

    assert first.code == 201
    assert (stranger.code, stranger.headers["Location"], was_replayed(stranger)) == (303, "/login", False)
    assert b"secret" not in stranger.body
    assert (again.body, was_replayed(again)) == (first.body, True)
    assert len(notes()) == 1


async def test_a_caller_that_was_locked_out_gets_its_replay_no_more(mount: Mount, notes: Notes):
    locked_out: set[str] = set()

    class Handler(Plain):
        def prepare(self) -> None:
            super().prepare()
            if self.user in locked_out:
                raise HTTPError(403)

    client = mount(Handler)
    assert (await ask(client, "alice")).code == 201
    locked_out.add("alice")

    assert (await ask(client, "alice")).code == 403


async def test_a_method_that_is_no_coroutine_is_done_once(mount: Mount, notes: Notes):
    class Handler(IdempotentHandler, ApiHandler):
        def get_current_user(self) -> str | None:
            return self.request.headers.get("X-User")

        @authenticated
        def post(self) -> None:
            self.session.add(Note(text=f"{self.current_user}'s"))
            self.write(f"{self.current_user}'s")

    client = mount(Handler)
    answers = [await ask(client, user) for user in ("alice", None, "bob", "alice")]

    assert [answer.code for answer in answers] == [200, 403, 200, 200]
    assert [was_replayed(answer) for answer in answers] == [False, False, False, True]
    assert answers[3].body == b"alice's"
    assert sorted(notes()) == ["alice's", "bob's"]


async def test_tornados_own_coroutines_are_done_once(mount: Mount, notes: Notes):
    class Handler(IdempotentHandler, ApiHandler):
        @gen.coroutine
        def post(self) -> Generator[Any, Any, None]:
            yield self.run(add_note, self.session, text="once")

    client = mount(Handler)

    assert [was_replayed(await ask(client)) for _ in range(2)] == [False, True]
    assert notes() == ["once"]


@pytest.mark.parametrize(
    ("user", "as_text"),
    [
        (None, ""),
        ("alice", 'str "alice"'),
        ("", 'str ""'),
        (b"alice", 'bytes "616c696365"'),
        (7, "int 7"),
        (uuid.UUID(int=1), 'UUID "00000000-0000-0000-0000-000000000001"'),
        ({"name": "ä", "id": 1}, 'dict {"id": 1, "name": "\\u00e4"}'),
        (("alice", 1), 'tuple ["alice", 1]'),
    ],
)
async def test_a_principal_is_the_same_text_in_every_process(
    mount: Mount, notes: Notes, user: Any, as_text: str
):
    told = []

    class Handler(IdempotentHandler, ApiHandler):
        def get_current_user(self) -> Any:
            return user

        async def post(self) -> None:
            told.append(self.idempotency_principal())
            await self.run(add_note, self.session, text="once")

    client = mount(Handler)

    assert [was_replayed(await ask(client)) for _ in range(2)] == [False, True]
    assert told == [as_text]


async def test_a_mapped_user_is_told_by_its_primary_key(mount: Mount, notes: Notes, sql: RawSql):
    """Its other columns may change between a request and its repeat."""
    sql("INSERT INTO notes (text) VALUES ('alice'), ('bob')")

    def change(session: Session, user: Note) -> None:
        user.parent_id = user.id

    class Handler(IdempotentHandler, ApiHandler):
        async def prepare(self) -> None:
            super().prepare()
            name = self.request.headers["X-User"]
            self.current_user = await self.run(get_note, self.session, text=name)

        async def post(self) -> None:
            await self.run(change, self.session, self.current_user)
            self.write(self.current_user.text)

    client = mount(Handler)
    answers = [await ask(client, user) for user in ("alice", "bob", "alice")]

    assert [answer.body for answer in answers] == [b"alice", b"bob", b"alice"]
    assert [was_replayed(answer) for answer in answers] == [False, False, True]


async def test_a_user_without_such_a_text_is_a_fault_that_names_the_hook(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(IdempotentHandler, ApiHandler):
        def get_current_user(self) -> object:
            return object()

        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone")

    with (
        expect_log("onfinish.handlers", r"object.*override `idempotency_principal"),
        expect_log("tornado.access", "^500"),
    ):
        answer = await ask(mount(Handler))

    assert answer.code == 500
    assert notes() == []


async def test_what_prepare_has_written_is_kept_with_the_replay(mount: Mount, notes: Notes):
    """It is no part of what the key stands for: a counter of calls counts the repeat, too."""

    class Handler(Plain):
        async def prepare(self) -> None:  # type: ignore[override]
            super().prepare()
            await self.run(add_note, self.session, text=f"call {uuid.uuid4()}")

    client = mount(Handler)
    assert [was_replayed(await ask(client, "alice")) for _ in range(2)] == [False, True]

    assert [text.split()[0] for text in notes()] == ["call", "alice", "call"]


def test_an_upload_that_is_read_as_it_comes_takes_no_keys():
    """Its body has no fingerprint: a second upload would get the answer to the first, and be nowhere."""
    with pytest.raises(TypeError, match=r"Upload.*stream_request_body.*SessionHandler"):

        @stream_request_body
        class Upload(IdempotentHandler, ApiHandler):
            async def post(self) -> None: ...


def test_a_handler_that_takes_keys_may_have_an_abstract_mixin():
    class Mixin(ABC):
        @abstractmethod
        def size(self) -> int: ...

    class Handler(Mixin, IdempotentHandler):
        def size(self) -> int:
            return 1

    assert issubclass(Handler, IdempotentHandler)


def test_a_subclass_of_an_upload_takes_no_keys():
    @stream_request_body
    class Upload(ApiHandler):
        pass

    with pytest.raises(TypeError, match=r"Keyed.*stream_request_body"):

        class Keyed(Upload, IdempotentHandler):
            pass


def test_a_check_that_would_come_behind_the_replay_is_refused():
    def checked(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def check(self: Any, *args: Any) -> None:
            await method(self, *args)

        return check

    with pytest.raises(TypeError, match=r"Handler\.post.*prepare"):

        class Handler(IdempotentHandler, ApiHandler):
            @checked
            async def post(self) -> None: ...


def test_a_check_on_a_method_that_is_no_coroutine_is_refused():
    with pytest.raises(TypeError, match=r"Handler\.post.*async def"):

        class Handler(IdempotentHandler, ApiHandler):
            @with_api_key
            def post(self) -> None: ...


async def test_a_decorator_that_starts_the_method_itself_is_a_fault(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Its work would be done at each repeat."""

    def starting(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def start(self: Any) -> Any:
            return asyncio.ensure_future(method(self))

        return start

    class Handler(IdempotentHandler, ApiHandler):
        @starting
        async def post(self) -> None:
            await asyncio.sleep(0.01)

    with (
        expect_log("onfinish.handlers", "before its Idempotency-Key was taken"),
        expect_log("tornado.access", "^500"),
    ):
        assert (await ask(mount(Handler))).code == 500
