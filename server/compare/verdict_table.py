"""The verdicts of all scenarios under all scopes, each run in a process that is killed when it hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from conf import DatabaseSettings
from server.compare.processes import GRACE_S, Ended, Hung, Worker
from server.compare.scenarios.base import DEADLINE_S
from server.compare.workers import Step, play

_START_S = 20.0
"""How long a process may take to start, on a machine that is busy."""


def verdicts(
    databases: Sequence[DatabaseSettings], steps: Sequence[Step], *, deadline_s: float = DEADLINE_S
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Run each step; yields the results in the order of the steps, each as soon as there is one.

    A scenario that hangs is cancelled at its deadline, or killed with its process where it blocks the whole
    process; the others go on in a new one.

    Args:
        databases: a scratch database for each process that works at a time. The scopes are dealt out to them.
        steps: scenarios and scopes, by name.
        deadline_s: how long each may take.
    """
    scopes = list(dict.fromkeys(scope for _, scope in steps))
    queues = [
        _Queue(database, [step for step in steps if scopes.index(step[1]) % len(databases) == at], deadline_s)
        for at, database in enumerate(databases)
    ]
    found = {step: result for queue in queues for step, result in queue.results.items()}
    with ThreadPoolExecutor(len(queues)) as threads:
        for queue in queues:
            threads.submit(queue.run)
        try:
            for step in steps:
                yield step, found[step].result()
        finally:
            for queue in queues:
                queue.stop()


class _Queue:
    """Steps that are run one after the other. Lives until the last of them is over, or `stop`."""

    def __init__(self, settings: DatabaseSettings, steps: Sequence[Step], deadline_s: float) -> None:
        self.results: dict[Step, Future[dict[str, Any]]] = {step: Future() for step in steps}
        self._settings = settings
        self._deadline_s = deadline_s
        self._worker: Worker | None = None
        self._stopped = False

    def run(self) -> None:
        """Run all of them, in the calling thread."""
        left = list(self.results)
        try:
            while left and not self._stopped:
                self._in_one_process(left)
        except BaseException as error:  # noqa: BLE001  # raised where the results are waited for
            for step in left:
                self.results[step].set_exception(error)

    def stop(self) -> None:
        """Run no more of them, and kill the one that runs."""
        self._stopped = True
        if self._worker is not None:
            self._worker.end()

    def _in_one_process(self, left: list[Step]) -> None:
        with Worker(play, self._settings, left, self._deadline_s) as worker:
            self._worker = worker
            timeout_s = _START_S + self._deadline_s + GRACE_S
            while left and not self._stopped:
                try:
                    result = worker.receive(timeout_s)
                except Hung:
                    result = {"verdict": "hung", "reason": f"killed after {timeout_s:g} s"}
                except Ended as error:
                    result = {"verdict": "failed", "reason": str(error)}
                timeout_s = self._deadline_s + GRACE_S
                self.results[left.pop(0)].set_result(
                    {"also": [], "evidence": {}, "sentence": result["reason"], **result}
                )
                if "took_s" not in result:
                    break
