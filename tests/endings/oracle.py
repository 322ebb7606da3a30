"""The oracle: what must be true of a request, however it ended.

Each promise is a function that takes a `Case`, and yields what is wrong; its docstring is the promise. They
go by what the handler saw, what the client read, what the log and the metric say, and what is in the
database; how the service works is not known here, but for the states of its units of work.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Iterator

from tornado.web import HTTPError

from db.errors import (
    ClientDisconnected,
    Conflict,
    ConnectionLost,
    DeadlinePassed,
    OutcomeUnknown,
    RetryableConflict,
    Unavailable,
    UsageError,
)
from handlers import Problem
from tests.endings.programs import (
    ATTEMPTS_MAX,
    CONFLICTING,
    DOUBTFUL,
    FAULTY,
    HANGING,
    REFUSED,
    Commit,
    Later,
    Leave,
    every_step,
)
from tests.endings.stage import Attempt, Event, Record

ANSWERED_WITHIN_S = 3.0
"""How long after its deadline a request may be answered, on a busy machine."""

Complaints = Iterator[str]
Promise = Callable[["Case"], Complaints]


def broken_promises(record: Record) -> list[str]:
    """Every promise that was not kept, and how."""
    if record.process_ended is not None:
        return [f"no request ends the process: {record.process_ended!r} came out of the event loop"]
    if not record.attempts:
        return ["the handler was never reached"]
    case = Case(record)
    return [
        f"{(promise.__doc__ or '').splitlines()[0]} BUT {what}"
        for promise in PROMISES
        for what in promise(case)
    ]


class Case:
    """A record, and what follows from it. Lives as long as its judgement."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.program = record.program
        self.steps = every_step(self.program.prepare + self.program.steps)
        self.last = record.attempts[-1]
        self.rows = Counter(row.mark for row in record.rows if not row.mark.startswith("f"))
        """The rows of the request's own unit of work."""
        self.rows_afterwards = Counter(row.mark for row in record.rows if row.mark.startswith("f"))
        self.written = {event.mark for event in self.last.all("writes")}
        """What the last attempt sent to the database, and nothing has undone since."""

    # -- what the client, or else the access line, says

    @property
    def reads(self) -> bool:
        """Whether the request works on the reader."""
        return self.program.method == "GET"

    @property
    def left(self) -> bool:
        """Whether the client left, so that nothing was read."""
        return any(isinstance(step, Leave) for step in self.steps) and self.record.left.is_set()

    @property
    def status(self) -> int | None:
        """The answer's."""
        if self.record.answer is not None:
            return self.record.answer.status
        return self.record.access[0][0] if self.record.access else None

    @property
    def outcome(self) -> str | None:
        """What the answer says of the work; None where it says nothing."""
        return self.record.answer.outcome if self.record.answer is not None else None

    @property
    def word(self) -> str | None:
        """The access line's."""
        return self.record.access[0][1] if self.record.access else None

    # -- what the handler saw

    @property
    def decided(self) -> Event | None:
        """What came first: ``finish()``, an error, or the end of the method without either."""
        events = self.last.all("finishes", "raises", "ends")
        return events[0] if events else None

    @property
    def committed(self) -> bool:
        """Whether the handler's own `commit` returned."""
        return bool(self.last.all("commit ends"))

    @property
    def had_committed(self) -> bool:
        """Whether it had returned when the answer was decided, so that the handler knew.

        A callback may come between a commit's end and the step in which its caller is told.
        """
        calls_back = any(isinstance(step, Later) for step in self.steps)
        known = self.last.events if calls_back else self._before_the_decision
        return any(event.kind == "commit ends" for event in known)

    @property
    def commit_was_under_way(self) -> bool:
        """Whether the handler's own `commit` was begun, and not seen to end, when the answer was decided."""
        begun = {event.mark for event in self.last.all("commit begins")}
        begun |= {event.mark for event in self.last.all("leaves alone") if event.does == "commit"}
        ended = {
            event.mark for event in self._before_the_decision if event.kind in ("commit ends", "commit fails")
        }
        return bool(begun - ended)

    @property
    def run_was_under_way(self) -> bool:
        """Whether a `run` was begun, and not seen to end, when the answer was decided."""
        begun = {event.mark for event in self._before_the_decision if event.kind == "run begins"}
        return bool(begun - {event.mark for event in self._before_the_decision if event.kind == "run ends"})

    @property
    def _before_the_decision(self) -> list[Event]:
        return self.last.events[: self.last.events.index(self.decided)] if self.decided else self.last.events

    @property
    def is_kept(self) -> bool | None:
        """Whether the work is in the database; None where there is none by which to tell."""
        return bool(self.rows) if self.written and not self.reads else None

    @property
    def was_stopped(self) -> bool:
        """Whether the deadline or the client's leaving may have stopped it."""
        return self.program.timeout_s is not None or (self.left and (self.reads or self.program.cancels))


# -- the promises


def answered_once(case: Case) -> Complaints:
    """Every request is answered, once, in its time, and has one access line."""
    record = case.record
    if not case.left:
        if record.answer is None:
            yield f"no answer in {record.took_s:.1f} s"
        elif record.answer.answers != 1:
            yield f"{record.answer.answers} answers"
        limit_s = ANSWERED_WITHIN_S + (case.program.timeout_s or 0)
        if record.took_s > limit_s:
            yield f"it took {record.took_s:.1f} s"
    if len(record.access) != 1:
        yield f"{len(record.access)} access lines: {record.access}"


def everything_is_given_back(case: Case) -> Complaints:
    """Places, connections, units of work and tasks come back, however a request ends."""
    if case.record.lent:
        yield f"{case.record.lent}"


def the_states_follow_the_table(case: Case) -> Complaints:
    """Each unit of work goes through states as the table of transitions has them, and ends settled."""
    yield from case.record.wrong_states


def at_most_once(case: Case) -> Complaints:
    """Each write is in the database at most once."""
    for mark, count in (case.rows + case.rows_afterwards).items():
        if count > 1:
            yield f"{mark} is there {count} times"


def all_or_nothing(case: Case) -> Complaints:
    """The writes of the attempt that was answered are there together, or none is; and none of another."""
    others = {row for row in case.record.rows if row.attempt != case.last.number}
    if others:
        yield f"{others} are of an attempt that was run again; the last one is {case.last.number}"
    elif case.rows and set(case.rows) != case.written:
        yield f"of {case.written}, {set(case.rows)} are there"


def success_means_committed(case: Case) -> Complaints:
    """A client that reads a success finds everything that its request did."""
    if case.status is None or case.status >= 400:
        return
    if case.is_kept is False:
        yield f"{case.status}, and none of {case.written} is there"
    for event in case.last.all("forgets"):
        yield f"{case.status}, and the `run` of {event.mark} was never awaited"


def the_outcome_is_true(case: Case) -> Complaints:
    """An error says what became of the work: not_applied, applied, or that it cannot be known."""
    if case.status is None or case.status < 400:
        return
    kept = case.is_kept or (case.committed and not case.reads)
    match case.outcome:
        case "not_applied" if kept:
            yield f"{case.status} not_applied: {dict(case.rows)}, commit() returned: {case.committed}"
        case "applied" if case.is_kept is False:
            yield f"{case.status} applied: none of {case.written} is there"
        case "unknown" if not any(event.does in DOUBTFUL for event in case.last.all("writes")):
            yield f"{case.status} unknown, and there was nothing that could not be known"
        case None if kept and not case.had_committed and not case.left:
            yield f"{case.status} says nothing of an outcome, and there are {dict(case.rows)}"


def the_access_line_is_true(case: Case) -> Complaints:
    """The access line has the status that the client read, and the word that is true of the work."""
    record = case.record
    if not record.access:
        return
    status, word = record.access[0]
    if record.answer is not None and record.answer.status != status:
        yield f"the client read {record.answer.status}, the access line has {status}"
    if case.outcome == "unknown" or word == "unknown":
        if (case.outcome, word) not in (("unknown", "unknown"), (None, "unknown")):
            yield f"the client read {case.outcome}, the access line says {word}"
        if not any(event.does in DOUBTFUL for event in case.last.all("writes")):
            yield "it says unknown, and there was nothing that could not be known"
        return
    if case.reads:
        if word != "read" and (status < 400 or word != "undone"):
            yield f"a read, and it says {status} {word}"
        return
    kept = case.is_kept
    if kept is None:
        kept = True if status < 400 or case.committed or case.outcome == "applied" else None
    if kept is None and case.outcome == "not_applied":
        kept = False
    if kept is not None and word != ("kept" if kept else "undone"):
        yield f"the work is {'kept' if kept else 'undone'}, and it says {status} {word}"


def the_metric_agrees(case: Case) -> Complaints:
    """The metric counts what the access line says."""
    counted = [word for label, word in case.record.counted if label.endswith("Stage")]
    if case.record.access and (not counted or counted[-1] != case.word):
        yield f"{counted} is counted, and the access line says {case.word}"


def before_commit_runs_with_its_commit(case: Case) -> Complaints:
    """What `before_commit` was given is done once with what is kept; given too late, that is an error."""
    for event in case.last.all("registers before"):
        done = [called for called in case.last.all("calls before") if called.mark == event.mark]
        success = case.status is not None and case.status < 400
        if len(done) > 1:
            yield f"{event.mark} was called {len(done)} times"
        if not done and (success or case.is_kept or case.committed):
            yield f"{event.mark} was dropped: {case.status}, {dict(case.rows)}, committed: {case.committed}"
    for event in case.last.all("is refused"):
        begun = case.last.all("commit begins") or case.last.all("finishes")
        if not isinstance(event.error, UsageError) or not begun:
            yield f"{event.does} was refused: {event.error!r}"


def after_commit_is_called_once(case: Case) -> Complaints:
    """What `on_commit` was given is called once if the work is kept, and never otherwise."""
    if case.word == "unknown":
        return
    if case.reads:
        if case.last.all("commit begins"):  # nothing tells how it ended
            return
        kept = case.status is not None and case.status < 400
    else:
        kept = case.word == "kept" if case.is_kept is None else case.is_kept
    for attempt in case.record.attempts:
        calls = Counter(event.mark for event in attempt.all("calls after"))
        for event in attempt.all("registers after"):
            wanted = 1 if kept and attempt is case.last else 0
            if calls[event.mark] != wanted:
                yield f"{event.mark} was called {calls[event.mark]} times, and not {wanted}"


def afterwards_is_done_once(case: Case) -> Complaints:
    """What `afterwards` was given is done once a request, kept or undone by itself."""
    expected = set()
    for attempt in case.record.attempts:
        calls = Counter(event.mark for event in attempt.all("calls afterwards"))
        for event in attempt.all("registers afterwards"):
            wanted = 1 if attempt is case.last else 0
            if calls[event.mark] != wanted:
                done = f"{calls[event.mark]} times, and not {wanted}"
                yield f"{event.mark} of attempt {attempt.number} was done {done}"
    for event in case.last.all("registers afterwards"):
        if not _goes_wrong(event.does, case.last) and event.does not in ("reads", "is slow"):
            expected.add(event.mark)
        elif _goes_wrong(event.does, case.last) and not _logged(case, "afterwards"):
            yield f"{event.mark} went wrong, and nothing of it is in the log"
    if set(case.rows_afterwards) != expected:
        yield f"{set(case.rows_afterwards)} is there of what is done afterwards, and not {expected}"


def answered_as_it_ended(case: Case) -> Complaints:
    """The status is that of the ``finish()``, or of the first thing that went wrong."""
    allowed = _may_read(case)
    if case.status is not None and case.status not in allowed:
        yield f"{case.status}, and not {sorted(allowed)}; decided by {case.decided}"


def run_again_for_conflicts_alone(case: Case) -> Complaints:
    """A request runs again for a conflict, three attempts in all, and never once its work is committed."""
    attempts = case.record.attempts
    if len(attempts) > ATTEMPTS_MAX:
        yield f"{len(attempts)} attempts"
    for attempt in attempts[:-1]:
        if attempt.all("commit ends"):
            yield f"attempt {attempt.number} had committed, and it ran again"
        if not _met_conflict(attempt):
            yield f"attempt {attempt.number} met no conflict, and it ran again: {attempt.events}"
    decided = case.decided
    stays = case.was_stopped or any(isinstance(step, Commit) for step in case.steps)
    if (
        decided is not None
        and decided.kind == "raises"
        and _is_conflict(decided.error)
        and len(attempts) < ATTEMPTS_MAX
        and not stays
    ):
        yield f"{decided.error!r} was answered at attempt {len(attempts)}"


def faults_are_logged(case: Case) -> Complaints:
    """A fault of ours is in the log: each 500, an error after the commit, the line of a forgotten run."""
    own_cancel = case.decided is not None and isinstance(case.decided.error, CancelledError)
    if case.status == 500 and not _errors(case) and not own_cancel:  # which Tornado takes for no error
        yield "500, and no error in the log"
    for event in case.last.all("fails"):
        stopped = case.was_stopped and event.mark[0] == "b"  # of what was stopped, the reason is what is told
        if (
            event.does.startswith("panics")
            and event.mark[0] in "bf"
            and not (_logged(case, "Panic") or stopped)
        ):
            yield f"{event.mark} {event.does}, and that is not in the log"
    cut_short = case.last.all("gives up")  # a commit's waiter, and with it the function that it had come to
    for event in case.last.all("calls after"):
        faulty = event.does in ("raises", "panics") or (
            event.does == "meets a cancelled task" and not cut_short
        )
        if faulty and not _logged(case, "an on_commit function failed"):
            yield f"{event.mark} {event.does}, and that is not in the log"
    for event in case.last.all("forgets"):
        told_of = case.status == 500 and case.decided is not None and case.decided.kind == "finishes"
        told_of = told_of and not case.last.all("commit begins")  # whose caller is told, and may swallow it
        named = _logged(case, "stage.py") and _logged(case, str(event.status))
        if told_of and not named:
            yield f"the log does not name stage.py, line {event.status}"


PROMISES: tuple[Promise, ...] = (
    answered_once,
    everything_is_given_back,
    the_states_follow_the_table,
    at_most_once,
    all_or_nothing,
    success_means_committed,
    the_outcome_is_true,
    the_access_line_is_true,
    the_metric_agrees,
    before_commit_runs_with_its_commit,
    after_commit_is_called_once,
    afterwards_is_done_once,
    answered_as_it_ended,
    run_again_for_conflicts_alone,
    faults_are_logged,
)


# -- which statuses a request may be answered with


def _may_read(case: Case) -> set[int]:
    decided = case.decided
    may: set[int] = set()
    if decided is None or decided.kind == "ends":  # it was never answered by its handler
        # A callback that comes at the very moment of the end may be in time.
        may |= {500} | {event.status for event in case.last.all("answers late")}
    elif decided.kind == "raises":
        may |= {status_for(decided.error)}
    else:
        may |= {decided.status}
        if decided.status < 400:
            may |= _may_fail_at_the_settling(case)
            if case.last.all("forgets"):
                may -= {decided.status}
    if case.last.all("forgets"):
        may |= {500}
    if case.commit_was_under_way:  # how it ended counts as well
        may |= {409, 500, 503}
    if case.program.timeout_s is not None:
        may |= {504}
    if case.left:
        may |= {status_for(ClientDisconnected())}
    return may


def _may_fail_at_the_settling(case: Case) -> set[int]:
    """The statuses of what may still go wrong when ``finish()`` has been called, and nothing was raised."""
    last = case.last
    may: set[int] = set()
    for event in last.all("writes", "registers before"):
        if event.does in DOUBTFUL:
            may.add(status_for(OutcomeUnknown()))
        late = event.does.endswith(("at COMMIT", "at COMMIT always", "in a flush hook"))
        if (late or event.kind == "registers before") and _goes_wrong(event.does, last):
            may.add(_status_of_work(event.does))
    if case.reads and any(event.does == "writes" for event in last.all("registers before")):
        may.add(500)
    # An error that was caught may have cost the transaction, which is a fault of the program.
    for event in last.all("swallows", "commit fails"):
        may |= {500, status_for(event.error)}
    if last.all("leaves alone", "gives up") or case.run_was_under_way:
        may |= {409, 500, 503}
    return may


def _goes_wrong(does: str, attempt: Attempt) -> bool:
    """Whether a function that does this fails, by itself or at its COMMIT."""
    return (
        does in REFUSED
        or does in FAULTY
        or does in HANGING
        or does in DOUBTFUL
        or attempt.number <= CONFLICTING.get(does, 0)
    )


def _status_of_work(does: str) -> int:
    if does in CONFLICTING:
        return 503
    return REFUSED.get(does, 500)


def status_for(error: BaseException | None) -> int:
    """The status that answers an error, see the table of `API.md`."""
    if isinstance(error, BaseExceptionGroup):
        statuses = {status_for(member) for member in error.exceptions}
        return statuses.pop() if len(statuses) == 1 else 500
    match error:
        case HTTPError():
            return error.status_code
        case Problem():
            return error.status_code
        case Conflict():
            return 409
        case RetryableConflict() | Unavailable() | OutcomeUnknown():
            return 503
        case DeadlinePassed():
            return 504
        case ClientDisconnected():
            return 499
    return 500


def _is_conflict(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return status_for(error) == 503 and any(map(_is_conflict, error.exceptions))
    return isinstance(error, RetryableConflict | ConnectionLost)


def _met_conflict(attempt: Attempt) -> bool:
    if any(_is_conflict(event.error) for event in attempt.all("raises", "swallows", "commit fails")):
        return True
    return any(
        attempt.number <= CONFLICTING.get(event.does, 0)
        for event in attempt.all("writes", "registers before", "flushes")
    )


# -- the log


def _errors(case: Case) -> list[str]:
    return [_text(record) for record in case.record.log if record.levelname in ("ERROR", "CRITICAL")]


def _logged(case: Case, word: str) -> bool:
    return any(word in text for text in _errors(case))


def _text(record: object) -> str:
    exc_info = getattr(record, "exc_info", None)
    raised = "" if not exc_info else f" {exc_info[0].__name__}: {exc_info[1]}"
    return f"{record.getMessage()}{raised}"  # type: ignore[attr-defined]
