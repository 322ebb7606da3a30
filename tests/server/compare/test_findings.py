"""Each conclusion follows from the data."""

from __future__ import annotations

from server.compare.commit_time import Count
from server.compare.comparison import explicit_is_sound
from server.compare.cost import TWIN
from server.compare.findings import (
    conclusion,
    differences,
    figures,
    leaks,
    lost_under_load,
    recommendation,
    tally,
    what_guards_add,
    wrong,
)
from tests.server.compare.sample import comparison, server


def sentence(beginning: str, result: dict[str, object]) -> str:
    [found] = [each for each in conclusion(result) if each.startswith(beginning)]
    return found


def test_verdicts_are_counted_by_scope():
    assert tally(comparison())["contextvar"] == {"holds": 2, "refused": 1, "mixed": 1}
    assert wrong(comparison(), "threadlocal") == 2
    assert leaks(comparison(), "threadlocal") == 1


def test_the_recommendation_is_three_sentences_of_what_was_found():
    first, second, third = recommendation(comparison())

    assert first.startswith("Pass the session: it held in 3 of 4 scenarios and refused in 1, ")
    assert first.endswith("with a clear error and nothing wrong done.")
    assert "it held in 2, refused in 1, and went wrong in 1 (a worker)." in second
    assert third.endswith("registry in 2; thread-local in 2.")


def test_an_explicit_form_that_goes_wrong_is_not_recommended():
    result = comparison()
    result["scenarios"]["plain"]["verdicts"]["explicit"]["verdict"] = "lost"

    assert recommendation(result)[0] == "Passed, the session went wrong in 1 of 4 scenarios."


def test_what_the_guards_add_is_the_difference_of_two_columns():
    result = comparison()
    for scenario in result["scenarios"].values():
        scenario["verdicts"]["explicit-plain"] = {**scenario["verdicts"]["explicit"], "verdict": "kept"}

    assert what_guards_add(result) == [("explicit", 0, 4)]
    assert sentence("What the guards add", result).endswith("go wrong: explicit 4 without and 0 with.")


def test_a_difference_smaller_than_the_programs_own_is_noise():
    found = sentence("contextvar against explicit: +1.0% CPU for a GET", comparison())

    assert "no difference that can be told from noise: the same program differs by up to 3.0%" in found


def test_a_difference_that_every_round_shows_is_one():
    found = sentence("registry against explicit: +20.0% CPU for a POST", comparison())

    assert "more than the 3.0% by which the same program differs from itself" in found


def test_two_rounds_tell_nothing():
    cpu_us = {"explicit": 1000, "registry": 1200, TWIN: 1000}
    load = {name: server(each, rounds=2) for name, each in cpu_us.items()}

    found = sentence("registry against explicit: +20.0% CPU for a GET", comparison(load=load))

    assert "too few rounds" in found


def test_rounds_in_which_requests_failed_are_no_measure_of_cost():
    """A server that answers 500 at once is not a fast one."""
    assert "threadlocal" not in figures(comparison(), "cpu_us", "read")
    assert "threadlocal" not in differences(comparison(), "read")
    assert "threadlocal under load: 800 requests failed" in " ".join(conclusion(comparison()))


def test_acknowledged_writes_that_are_not_there_are_lost():
    measured = server(1000)
    measured["rows"] -= 7

    assert lost_under_load(measured) == 7
    assert "7 of the writes it acknowledged were lost" in sentence(
        "explicit under load", comparison(load={"explicit": measured})
    )


def test_only_what_explicit_holds_or_refuses_is_sound():
    """The command's exit status; a scenario that hung under explicit is not sound, whatever the others do."""
    result = comparison()
    assert explicit_is_sound(result)

    for verdict in ("hung", "failed", "lost", "mixed"):
        result["scenarios"]["plain"]["verdicts"]["explicit"]["verdict"] = verdict
        assert not explicit_is_sound(result)


def test_the_commit_axis_is_summed_over_its_faults():
    count = vars(Count(acknowledged=5, refused=4, lost=2, kept_though_refused=3, good_refused=1))
    commit = {"commit": {"naive": count}, "raise": {"naive": count}, "kill": {"naive": count}}

    assert sentence("Commit as in naive", comparison(commit=commit)) == (
        "Commit as in naive: of 10 acknowledged writes 4 were lost, of 8 refused ones 6 were kept, "
        "2 sound requests were refused for what an earlier one had left or held."
    )


def test_what_a_killed_server_lost_has_its_denominator_and_tells_nothing_where_no_form_lost():
    lost, kept = vars(Count(acknowledged=120, lost=3)), vars(Count(acknowledged=118))
    killed = "Of acknowledged writes to a server that was killed under load were lost: "

    one = comparison(commit={"kill": {"naive": lost, "onfinish": kept}})
    none = comparison(commit={"kill": {"naive": kept, "onfinish": kept}})

    assert sentence(killed, one) == f"{killed}naive 3 of 120, onfinish 0 of 118."
    assert sentence(killed, none).endswith("onfinish 0 of 118, which tells nothing about any of them.")
