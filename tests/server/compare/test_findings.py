"""Each conclusion follows from the data."""

from __future__ import annotations

from server.compare.commit_time import Count
from server.compare.comparison import explicit_is_sound
from server.compare.cost import TWIN
from server.compare.findings import conclusion, differences, figures, lost_under_load, tally
from tests.server.compare.sample import comparison, server


def sentence(beginning: str, result: dict[str, object]) -> str:
    [found] = [each for each in conclusion(result) if each.startswith(beginning)]
    return found


def test_verdicts_are_counted_by_scope():
    assert tally(comparison())["contextvar"] == {"holds": 2, "refused": 1, "mixed": 1}
    assert sentence("explicit:", comparison()).endswith(
        "holds in 3, refused in 1 of 4 scenarios. Nothing wrong was done."
    )
    assert "In 2 it went wrong without an error." in sentence("threadlocal:", comparison())


def test_scenarios_are_named_where_a_contextvar_is_as_good_better_and_worse():
    """By the titles of the scenarios."""
    found = sentence("A contextvar does as explicit does in 1 of 4", comparison())

    assert "better in: a kept object." in found
    assert "refuses where explicit holds in: @gen.coroutine prepare." in found
    assert "goes wrong without an error in: a worker." in found


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
    count = vars(Count(lost=2, kept_though_refused=3, good_refused=1))
    commit = {"commit": {"naive": count}, "kill": {"naive": count}}

    assert sentence("Commit as in naive", comparison(commit=commit)) == (
        "Commit as in naive: 4 acknowledged writes were lost, 6 writes of refused requests were kept, "
        "2 sound requests were refused for what an earlier one had left or held."
    )
