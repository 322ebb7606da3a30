"""The verdicts of all scenarios under all scopes, each run in a process that is ended when it hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from conf import DatabaseSettings
from server.compare.processes import GRACE_S, Ended, Hung, Worker
from server.compare.scenarios.base import DEADLINE_S
from server.compare.workers import Step, play

_START_S = 20.0
"""What a process may take to be there, on a machine that is busy."""


def verdicts(
    limiter: Sequence[DatabaseSettings], steps: Sequence[Step], *, deadline_s: float = DEADLINE_S
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Run each step; yields the results in the order of the steps, each as soon as there is one.

    One that hangs is ended by its deadline, and where it stops the whole process, with the process; the
    others go on in a new one.

    Args:
        places: a migrated database of the comparison's own for each process that is to work at a time. The
            scopes are dealt out to them.
        steps: scenarios and scopes, by name.
        deadline_s: how long each may take.
    """
    scopes = list(dict.fromkeys(scope for _, scope in steps))
    endpoints = [
        _Lane(place, [step for step in steps if scopes.index(step[1]) % len(limiter) == number], deadline_s)
        for number, place in enumerate(limiter)
    ]
    found = {step: result for endpoint in endpoints for step, result in endpoint.results.items()}
    with ThreadPoolExecutor(len(endpoints)) as threads:
        for endpoint in endpoints:
            threads.submit(endpoint.run)
        try:
            for step in steps:
                yield step, found[step].result()
        finally:
            for endpoint in endpoints:
                endpoint.stop()


class _Lane:
    """Steps that are run one after the other. Lives until the last of them is over, or `stop`."""

    def __init__(self, place: DatabaseSettings, steps: Sequence[Step], deadline_s: float) -> None:
        self.results: dict[Step, Future[dict[str, Any]]] = {step: Future() for step in steps}
        self._place = place
        self._deadline_s = deadline_s
        self._worker: Worker | None = None
        self._stopped = False

    def run(self) -> None:
        """Run all of them, in a thread of its own."""
        left = list(self.results)
        try:
            while left and not self._stopped:
                self._in_one_process(left)
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the results
            for step in left:
                self.results[step].set_exception(error)

    def stop(self) -> None:
        """Run no more of them, and end the one that runs."""
        self._stopped = True
        if self._worker is not None:
            self._worker.end()

    def _in_one_process(self, left: list[Step]) -> None:
        with Worker(play, self._place, left, self._deadline_s) as worker:
            self._worker = worker
            patience_s = _START_S + self._deadline_s + GRACE_S
            while left and not self._stopped:
                try:
                    result = worker.receive(patience_s)
                except Hung:
                    result = {"verdict": "hung", "reason": f"killed after {patience_s:g} s"}
                except Ended as error:
                    result = {"verdict": "failed", "reason": str(error)}
                patience_s = self._deadline_s + GRACE_S
                self.results[left.pop(0)].set_result({"also": [], "evidence": {}, **result})
                if "took_s" not in result:
                    break
