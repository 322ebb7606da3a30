"""``compare --lint`` finds in handlers what the scenarios show to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.cli import main
from server.compare.lint import NotPython, lint
from server.compare.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[3]


def scenarios_in(source: str, tmp_path: Path) -> list[tuple[int, str]]:
    """The line and the scenario of each finding."""
    file = tmp_path / "handlers.py"
    file.write_text(source)
    return [(found.line, found.scenario) for found in lint([tmp_path])]


HANDLER = "class H(RequestHandler):\n    async def post(self):\n        "


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("sessions = scoped_session(factory)", [(1, "plain_async")]),
        ("sessions = orm.scoped_session(factory, scopefunc=key.get)", [(1, "coroutine_prepare")]),
        ("session_var: ContextVar[Session | None] = ContextVar('s', default=None)", [(1, "forgotten")]),
        (HANDLER + "rows = self.session.scalars(query).all()", [(3, "through_run")]),
        (HANDLER + "rows = current_session().scalars(query).all()", [(3, "through_run")]),
        (HANDLER + "await loop.run_in_executor(None, partial(f, self.session))", [(3, "asyncio_executor")]),
        (HANDLER + "await asyncio.to_thread(f, self.session)", [(3, "to_thread")]),
        (HANDLER + "asyncio.create_task(later(self.session))", [(3, "outliving_task")]),
        (HANDLER + "IOLoop.current().add_callback(lambda: f(self.session))", [(3, "callback_after_finish")]),
        (HANDLER + "loop.call_later(1, f, self.session)", [(3, "timer_beside_another")]),
        (
            HANDLER + "await asyncio.gather(self.run(f, self.session), self.run(g, self.session))",
            [(3, "gather")],
        ),
        (HANDLER + "self.finish()\n        await self.run(f, self.session)", [(4, "query_after_finish")]),
        (HANDLER + "CACHE['repository'] = Repository(self.session)", [(3, "kept_object")]),
        (HANDLER + "self.application.repository = Repository(self.session)", [(3, "kept_object")]),
        (HANDLER + "kept.append(Repository(self.session))", [(3, "kept_object")]),
        (
            "class H(RequestHandler):\n    def on_finish(self):\n        self.session.commit()",
            [(3, "commit_fails")],
        ),
        (
            "class H(SessionMixin, RequestHandler):\n    def get(self):\n        self.session.scalars(query)",
            [(1, "commit_fails")],
        ),
        (
            "class S(WebSocketHandler):\n    def prepare(self):\n        self.session = Session(engine)",
            [(3, "handshake_session")],
        ),
    ],
)
def test_what_a_scenario_shows_to_be_wrong_is_found(
    source: str, found: list[tuple[int, str]], tmp_path: Path
):
    assert scenarios_in(source, tmp_path) == found


@pytest.mark.parametrize(
    "source",
    [
        HANDLER + "await self.run(create_entry, self.session, text='row')",
        HANDLER + "await self.run(lambda session: session.scalars(query).all(), self.session)",
        HANDLER + "self.session.add(Entry())",
        HANDLER + "current_session().add(Entry())",
        HANDLER + "self.repository = Repository(self.session)",
        HANDLER + "await asyncio.to_thread(render, 'page')",
        HANDLER + "await self.run(f, self.session)\n        self.finish()",
        HANDLER + "asyncio.create_task(publish(row.id))",
        "session_var: ContextVar[Session] = ContextVar('session')",
        "request_id = ContextVar('request_id', default=None)",
        "class Job:\n    def on_finish(self):\n        self.session.commit()",
    ],
)
def test_what_holds_is_not_found(source: str, tmp_path: Path):
    assert scenarios_in(source, tmp_path) == []


def test_the_plain_forms_are_found():
    """The handlers of the comparison's controls, each for what makes it go wrong there."""
    columns = ROOT / "server/compare/columns"

    plain = {found.scenario for found in lint([columns / "plain.py"])}

    assert {"commit_fails", "coroutine_prepare"} <= plain


@pytest.mark.parametrize("clean", ["tests/examples", "handlers", "server/compare/forms/explicit.py"])
def test_the_examples_and_the_product_are_clean(clean: str):
    """But for those that show what to migrate from, and how a write is lost."""
    found = {Path(each.path).relative_to(ROOT).as_posix() for each in lint([ROOT / clean])}

    before = {f"tests/examples/migration/{form}.py" for form in ("threadlocal", "registry", "mixin")}
    before.add("tests/examples/lost_write.py")
    assert found == (before if clean == "tests/examples" else set())


def test_a_finding_names_its_place_the_scenario_and_the_way_out(tmp_path: Path, capsys):
    """Exit status 1; where nothing is found 0, and nothing is printed but that."""
    file = tmp_path / "app.py"
    file.write_text(HANDLER + "asyncio.create_task(later(self.session))\n")

    assert main(["compare", "--lint", str(tmp_path)]) == 1

    printed = capsys.readouterr().out
    title = SCENARIOS["outliving_task"].title
    assert f"{file}:3: outliving_task ({title}): the task may outlive the request" in printed
    assert "give it a unit of work of its own" in printed
    file.write_text("")
    assert main(["compare", "--lint", str(file)]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys):
    """Exit status 2: a folder that is not there has not been found clean."""
    (tmp_path / "broken.py").write_text("def (")

    assert main(["compare", "--lint", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert main(["compare", "--lint", str(tmp_path)]) == 2
    assert "broken.py:1: not Python" in capsys.readouterr().err
    with pytest.raises(NotPython):
        lint([tmp_path])


def test_every_scenario_that_it_names_exists():
    source = (ROOT / "server/compare/lint.py").read_text()

    named = {name for name in SCENARIOS if f'"{name}"' in source}

    assert len(named) >= 13
