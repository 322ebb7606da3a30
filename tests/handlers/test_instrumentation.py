"""Sentry's and OpenTelemetry's own packages see of a request what they see with plain Tornado."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.process import ROOT
from tests.handlers.instrumented import REQUESTS, ROW

STATUSES = {
    "GET /kept": [200],
    "POST /kept": [201, 409],
    "POST /below": [201],
    "POST /at_commit": [409],
    "POST /fault_at_commit": [500],
    "POST /again": [201],
    "POST /in_vain": [503],
    "GET /late": [504],
    "GET /streamed": [200],
    "BREW /kept": [405],
    "GET /raises/422": [422],
    "GET /raises/missing": [404],
    "GET /raises/404": [404],
    "GET /raises/fault": [500],
    "GET /raises/typo": [500],
    "GET /plain/422": [422],
    "GET /plain/missing": [404],
    "GET /plain/404": [404],
    "GET /plain/fault": [500],
    "GET /nowhere": [404],
}


Watched = Callable[[str], dict[str, Any]]

_seen: dict[tuple[str, str], dict[str, Any]] = {}
"""By the watcher and the database: a process takes seconds, and several tests look at what it saw."""


@pytest.fixture
def guarded(request: pytest.FixtureRequest, backend: str) -> Watched:
    """``watched("sentry")``: what Sentry has seen of `REQUESTS`, whose answers were as ever."""

    def guard(by: str) -> dict[str, Any]:
        if (by, backend) not in _seen:
            request.getfixturevalue("notes")
            _seen[by, backend] = _watched(by, request.getfixturevalue("database_url"))
        return _seen[by, backend]

    return guard


def _watched(by: str, url: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.handlers.instrumented", by, url],
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    read: dict[str, list[int]] = {}
    for request, status in zip(REQUESTS, seen["statuses"], strict=True):
        read.setdefault(request, []).append(status)
    assert read == STATUSES
    return seen


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
class TestSentry:
    @pytest.fixture
    def events(self, guarded: Watched) -> dict[str, list[Any]]:
        """By the path of the request."""
        by_path: dict[str, list[Any]] = {}
        for event in guarded("sentry")["events"]:
            by_path.setdefault(
                event["request"]["url"].partition("127.0.0.1")[2].partition("/")[2], []
            ).append(event)
        return by_path

    def test_each_fault_is_one_event_with_its_own_stack_and_no_refusal_is_one(
        self, events: dict[str, list[Any]]
    ):
        """A refusal, at a statement or at COMMIT, a Problem, an attempt that runs again: none of them."""
        assert {path: len(found) for path, found in events.items()} == {
            "fault_at_commit": 1,
            "raises/fault": 1,
            "raises/typo": 1,
            "plain/fault": 1,
        }
        for path, function in [
            ("fault_at_commit", "misspell"),
            ("raises/fault", "get"),
            ("raises/typo", "misspell"),
            ("plain/fault", "get"),
        ]:
            [event] = events[path]
            frames = [
                frame["function"]
                for value in event["exception"]["values"]
                for frame in value["stacktrace"]["frames"]
            ]
            assert function in frames
            assert event["exception"]["values"][-1]["mechanism"] == {"type": "tornado", "handled": False}
            assert event["level"] == "error"

    def test_the_events_have_the_class_of_the_error_and_no_message_of_the_databases(
        self, events: dict[str, list[Any]]
    ):
        values = events["raises/typo"][0]["exception"]["values"]

        assert [value["type"] for value in values][-1] == "NotInSchema"
        assert [value["module"] for value in values][-2] == "sqlalchemy.exc"
        assert not any(ROW in value["value"] or "SELECT" in value["value"] for value in values)


class TestOpenTelemetry:
    @pytest.fixture
    def seen(self, guarded: Watched) -> dict[str, Any]:
        return guarded("opentelemetry")

    def test_a_request_is_one_span_with_the_status_that_its_client_read(self, seen: dict[str, Any]):
        """A refused COMMIT is no 201, and an attempt that runs again is no span of its own."""
        told: dict[str, list[int]] = {}
        for span in seen["spans"]:
            assert span["kind"] == "SpanKind.SERVER"
            attributes = span["attributes"]
            request = f"{attributes['http.method']} {attributes['http.target']}"
            told.setdefault(request, []).append(attributes["http.status_code"])
            expected = "ERROR" if attributes["http.status_code"] >= 500 else "UNSET"
            assert span["status"]["status_code"] == expected, request

        brew = [
            request for request in told if request.endswith("/kept") and request[:3] not in ("GET", "POS")
        ]
        assert [told.pop(request) for request in brew] == [[405]]
        assert told == {request: read for request, read in STATUSES.items() if request != "BREW /kept"}

    def test_its_metrics_count_each_request_once(self, seen: dict[str, Any]):
        """Of the handlers with a session: as with plain Tornado, an error of another one is counted twice."""
        [scope] = seen["metrics"][0]["resource_metrics"][0]["scope_metrics"]
        points = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
        counted = Counter(
            {
                (point["attributes"].get("http.target"), point["attributes"]["http.status_code"]): point[
                    "count"
                ]
                for point in points["http.server.duration"]
                if point["attributes"]["http.method"] == "POST"
            }
        )
        active = {
            point["attributes"]["http.target"]: point["value"]
            for point in points["http.server.active_requests"]
            if point["attributes"]["http.method"] == "POST"
        }

        posts = {request[5:]: read for request, read in STATUSES.items() if request.startswith("POST")}
        assert counted == Counter((path, status) for path, read in posts.items() for status in read)
        assert active == dict.fromkeys(posts, 0)

    def test_a_fault_is_recorded_with_its_stack_and_without_rows(self, seen: dict[str, Any]):
        [span] = [span for span in seen["spans"] if span["attributes"]["http.target"] == "/raises/typo"]

        [event] = span["events"]
        assert event["name"] == "exception"
        assert event["attributes"]["exception.type"] == "db.errors.NotInSchema"
        assert "in misspell" in event["attributes"]["exception.stacktrace"]
        assert "SELECT txet FROM notes WHERE text = 'jane" not in event["attributes"]["exception.stacktrace"]

    def test_what_it_has_put_into_context_variables_is_taken_back(self, seen: dict[str, Any]):
        """Else it logs an error for each request: "Failed to detach context"."""
        assert [error for error in seen["errors"] if error.startswith("opentelemetry")] == []

    def test_a_handlers_own_hooks_run_once(self, seen: dict[str, Any]):
        assert seen["finished"] == 1


def test_the_service_imports_neither_of_them():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, server.app; print([*sys.modules])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "tornado.web" in done.stdout
    assert "sentry_sdk" not in done.stdout
    assert "opentelemetry" not in done.stdout
