"""The evidence of one scenario under one column, in a sentence or two: what was done to whose row."""

from __future__ import annotations

from collections.abc import Sequence

from server.compare.verdicts import Evidence, Found, Kind, ModelCall, Verdict, is_clear, others_unkept
from server.compare.wire import UNANSWERED

_FEW = 2


def in_a_sentence(verdict: Verdict) -> str:
    """What was observed: whose row, in whose session, and what its client had read."""
    evidence = verdict.evidence
    parts = [_what_happened(verdict)]
    if verdict.kind is not Kind.HOLDS and verdict.kind is not Kind.REFUSED:
        parts += _what_became_of_rows(evidence)
    parts += _what_leaked(evidence)
    return " ".join(part for part in parts if part)


def _what_happened(verdict: Verdict) -> str:
    evidence, kind = verdict.evidence, verdict.kind
    if kind is Kind.HOLDS:
        return _as_promised(evidence)
    if kind is Kind.REFUSED:
        return _refused(evidence)
    if kind is Kind.KEPT:
        return ""
    if kind is Kind.BROKEN:
        return " ".join(part for part in (_finished(evidence), _failed(evidence)) if part)
    return (
        _anothers(evidence)
        or _shared(evidence)
        or _made_up(evidence)
        or _finished(evidence)
        or _failed(evidence)
    )


def _as_promised(evidence: Evidence) -> str:
    kept = sorted({*evidence.rows} & evidence.to_be_kept)
    refused = sorted(evidence.to_be_undone | evidence.to_be_refused)
    parts = []
    if kept:
        parts.append(f"{_rows(kept)} in the database{_read(evidence, kept)}")
    if refused:
        parts.append(
            f"{_rows(refused)} not{' there' if kept else ' in the database'}{_read(evidence, refused)}"
        )
    return _sentence("; ".join(parts) or "nothing was written, and nothing raised")


def _refused(evidence: Evidence) -> str:
    called = {id(call.error): call.function for call in evidence.calls}
    for caller, error in _raised(evidence):
        if is_clear(error):
            said = _said(error, called.get(id(error), ""))
            return _sentence(f"{_name(caller)} had {type(error).__name__}: {said}")
    return ""


def _said(error: BaseException, function: str) -> str:
    if type(error) is LookupError:
        return "the variable is not set in that context"
    message = str(error).partition("\n")[0].partition("; ")[0].partition(": `")[0]
    if isinstance(error, TypeError):
        return f"{function}() {message.partition('() ')[2]}"
    return message


def _raised(evidence: Evidence) -> list[tuple[str, BaseException]]:
    calls = [(call.caller, call.error) for call in evidence.calls if call.error is not None]
    return [*calls, *evidence.errors]


def _anothers(evidence: Evidence) -> str:
    found = _worked(evidence, Found.ANOTHERS)
    if not found:
        return ""
    if len(found) > _FEW:
        return _sentence(f"{len(found)} calls of {len(evidence.calls)} worked in another request's session")
    call = found[0]
    return _sentence(f"{_subject(call)} {_possessive(call.owner or 'another request')} session")


def _shared(evidence: Evidence) -> str:
    call = next((call for call in evidence.calls if call.shared), None)
    if call is None:
        return ""
    return _sentence(
        f"two threads worked in {_possessive(call.owner or call.caller)} session at once; neither raised"
    )


def _made_up(evidence: Evidence) -> str:
    found = [
        call
        for call in _worked(evidence, Found.MADE_UP)
        if call.text is None or call.text not in evidence.rows
    ]
    found = found or _worked(evidence, Found.MADE_UP)
    if not found:
        return ""
    call = found[0]
    users = {each.caller for each in found if each.session == call.session}
    shared = f", which {len(users)} callers shared" if len(users) > 1 else ""
    return _sentence(
        f"{_subject(call)} a session that the registry made on the spot, and that nothing owns{shared}"
    )


def _finished(evidence: Evidence) -> str:
    found = _worked(evidence, Found.SETTLED)
    if not found:
        return ""
    call = found[0]
    return _sentence(
        f"{_subject(call)} the session of a finished request, which opened again without an error"
    )


def _failed(evidence: Evidence) -> str:
    raised = _raised(evidence)
    if not raised:
        return ""
    caller, error = raised[-1]
    status = evidence.status_of(caller)
    if status is not None and status < 400:
        return _sentence(f"{type(error).__name__} was raised when {_possessive(caller)} answer had been sent")
    return _sentence(f"{_name(caller)}, a sound request, failed by {type(error).__name__}")


def _what_became_of_rows(evidence: Evidence) -> list[str]:
    parts = []
    missing = [text for text in evidence.missing() if evidence.caller_of(text) is not None]
    missing += sorted(
        text for text in evidence.to_be_refused - {*evidence.rows} if evidence.acknowledged(text)
    )
    undone_with = _undone_with(evidence, missing)
    if undone_with:
        parts.append(undone_with)
    elif missing:
        told = all((evidence.status_of(evidence.caller_of(text) or "") or 0) >= 400 for text in missing)
        what = "not in the database" if told else "lost"
        parts.append(_sentence(f"{_rows(missing)} {what}{_read(evidence, missing)}"))
    kept = sorted({*evidence.rows} & (evidence.to_be_undone | evidence.to_be_refused))
    if kept:
        parts.append(_sentence(f"{_rows(kept)} in the database{_read(evidence, kept, but=True)}"))
    saw = next(((call, seen) for call in evidence.calls if (seen := others_unkept(evidence, call))), None)
    if saw is not None:
        parts.append(_sentence(f"{_name(saw[0].caller)} read {saw[1][0]} before that was refused"))
    return parts


def _undone_with(evidence: Evidence, missing: Sequence[str]) -> str:
    """A row that was lost since it was in the session of a request that was refused."""
    for call in evidence.calls:
        if call.text in missing and call.found is Found.ANOTHERS and call.owner is not None:
            status = evidence.status_of(call.owner)
            if status is not None and status >= 400:
                word = "acknowledged " if evidence.acknowledged(call.text or "") else ""
                whose = f"{_possessive(call.caller)} {word}row"
                return _sentence(f"when {call.owner} was refused ({status}), {whose} was undone with it")
    return ""


def _what_leaked(evidence: Evidence) -> list[str]:
    out = evidence.connections_out
    if not out:
        return []
    comes_back = " until the garbage collector found it" if not evidence.connections_kept else ""
    if out > 1:
        comes_back = comes_back.replace("it", "them")
    return [_sentence(f"{out} connection{'s' if out > 1 else ''} of the pool stayed out{comes_back}")]


# -- words


def _worked(evidence: Evidence, found: Found) -> list[ModelCall]:
    return [call for call in evidence.calls if call.found is found and call.error is None]


def _row_of(call: ModelCall) -> str:
    text = call.text or ""
    return text if text.startswith(("A's", "B's", "the other's")) else f"{_possessive(call.caller)} row"


def _rows(texts: Sequence[str]) -> str:
    named = ", ".join(f"“{text}”" for text in texts[:_FEW])
    more = len(texts) - _FEW
    if more > 0:
        return f"{len(texts)} rows are"
    return f"{named} {'is' if len(texts) == 1 else 'are'}"


def _read(evidence: Evidence, texts: Sequence[str], *, but: bool = False) -> str:
    """What the clients of these rows have read."""
    statuses = {
        (caller, status)
        for text in texts
        if (caller := evidence.caller_of(text)) is not None
        and (status := evidence.status_of(caller)) is not None
    }
    if not statuses or (but and all(status < 400 for _, status in statuses)):
        return ""
    codes = sorted({status for _, status in statuses})
    whose = _possessive(next(iter(statuses))[0]) + " client" if len(statuses) == 1 else "the clients"
    told = ", ".join("no answer" if code == UNANSWERED else str(code) for code in codes)
    return f", {'though' if but else 'and'} {whose} had read {told}"


def _subject(call: ModelCall) -> str:
    return f"{_name(call.caller)} read in" if call.text is None else f"{_row_of(call)} was added to"


def _name(caller: str) -> str:
    return f"request {caller}" if caller[:1] == "r" and caller[1:].isdigit() else caller


def _possessive(caller: str) -> str:
    return f"{_name(caller)}'s"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "”")) else ".")
