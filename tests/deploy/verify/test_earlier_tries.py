"""Earlier tries of a trial's claims: found, counted, named, and refused on the same questions."""

from typing import Any

import pytest

from cola_jax.deploy.verify.earlier_tries import (
    EARLIER_TRIES,
    check_unseen,
    count_tries,
    find_tries,
    record_tries,
    tries_estimate,
    weigh,
)
from cola_jax.errors import InputError
from cola_jax.runs.estimates import TRIES
from cola_jax.runs.tries import Try, read_tries, record

PATH = (0, 1, 2, 3)
FIRST = [f"q{i}" for i in range(100)]
GROWN = [f"q{i}" for i in range(200)]
OTHERS = [f"r{i}" for i in range(100)]


def make(hash: str, *paths: str, tasks: Any = ("arc",), **rules: Any) -> dict[str, Any]:
    """Make a protocol of paths on tasks, each in two prompts."""
    asked = {task: {"prompts": [{}, {}]} for task in tasks}
    claims = [{"claim": f"claim {path}", "path": path} for path in paths or ("0-3",)]
    return {"hash": hash, "model": "m", "claims": claims, "tasks": asked} | rules


def run(protocol: dict[str, Any], keys: dict[str, list[str]], outcome: str = "") -> dict[str, Any]:
    """Record a trial, with an outcome of each claim if it is given; return its protocol."""
    protocol = protocol | {EARLIER_TRIES: find_tries(protocol, keys)}
    record_tries(protocol, keys, "somebody/model")
    if outcome:
        pairs = [(claim["path"], task) for claim in protocol["claims"] for task in keys]
        record_tries(protocol, keys, "somebody/model", dict.fromkeys(pairs, outcome))
    return protocol


def test_a_later_trial_counts_and_names_the_earlier_ones():
    first = run(make("1"), {"arc": FIRST}, "nothing shown")
    assert count_tries(first, PATH) == 0
    assert tries_estimate(first, PATH, "g").value == 0
    second = run(make("2", "0-3", "0-2", tasks=["boolq"]), {"boolq": OTHERS}, "better")
    third = run(make("3"), {"arc": GROWN})
    assert (count_tries(second, PATH), count_tries(third, PATH)) == (1, 2)
    assert count_tries(second, (0, 1, 2)) == 0
    estimate = tries_estimate(third, PATH, "g")
    assert (estimate.name, estimate.group, estimate.value) == (TRIES, "g", 2)
    date = read_tries()[0].date[:10]
    assert estimate.note == (
        f"{date} nothing shown on arc, 100 questions in common, {date} better on boolq"
    )


def test_the_same_protocol_is_the_same_try_wherever_and_whenever_it_runs():
    keys = {"arc": FIRST}
    first = run(make("1"), keys, "worse")
    run(make("2"), {"arc": OTHERS}, "worse")
    size = len(read_tries())
    again = run(make("1"), keys, "worse")
    assert again == first
    assert len(read_tries()) == size
    check_unseen(make("1"), keys)


def test_trials_that_gave_no_verdict_are_named_and_not_counted():
    run(make("1", pilot=True), {"arc": OTHERS}, "pilot")
    measured = {"model": "m", "claim": "0-3", "task": "arc", "protocol": "static"}
    record([Try.now("measured", **measured, questions=("s",), outcome="+1.0 points")])
    begun = run(make("2", tasks=["a", "b"]), {"a": ["x"], "b": ["y"]})  # may be ended at any time
    assert count_tries(begun, PATH) == 0
    third = run(make("3"), {"arc": FIRST})
    assert count_tries(third, PATH) == 1
    estimate = tries_estimate(third, PATH, "g")
    assert estimate.value == 3
    for words in ("pilot on arc", "+1.0 points on arc", "no verdict yet on a"):
        assert words in estimate.note


@pytest.mark.parametrize("outcome", ["nothing shown", "pilot"])
def test_a_claim_is_not_judged_twice_on_a_question(outcome):
    """Neither by growing the limit nor by dropping other claims."""
    run(make("1", "0-3", "0-2"), {"arc": FIRST}, outcome)
    for keys in ({"arc": GROWN}, {"boolq": OTHERS, "arc again": FIRST}):
        message = rf"claim 0-3 was tried before on 100 of these .* \(\d{{4}}-.* {outcome} on arc\)"
        with pytest.raises(InputError, match=message):
            check_unseen(make("2"), keys)
    check_unseen(make("2"), {"arc": OTHERS})
    check_unseen(make("2", "0-1"), {"arc": FIRST})
    check_unseen(make("2") | {"model": "another"}, {"arc": FIRST})


def test_questions_of_a_trial_that_has_only_begun_were_not_seen():
    run(make("1"), {"arc": FIRST})
    check_unseen(make("2"), {"arc": FIRST})


def test_a_protocol_of_an_earlier_version_says_that_it_has_no_tries():
    assert count_tries(make("1"), PATH) == 0
    estimate = tries_estimate(make("1"), PATH, "g")
    assert estimate.result == "not recorded"


def test_a_trial_of_fewer_claims_on_the_same_questions_pays_for_those_that_it_leaves_out():
    """Its p-values are those of before, so that the budget of before still holds."""
    run(make("1", "0-3", "0-2", num_tests=6), {"arc": FIRST}, "nothing shown")
    alone = run(make("2", num_tests=3), {"arc": FIRST})
    assert count_tries(alone, PATH) == 2  # tests at 0.05 / (3 + 6)
    elsewhere = run(make("3", num_tests=3), {"arc": OTHERS})
    assert count_tries(elsewhere, PATH) == 2  # of the first and the second


def test_weigh_counts_tests_on_the_same_questions():
    assert weigh([], 3) == 0
    assert weigh([(6, True), (3, True), (1, True)], 3) == 4
    assert weigh([(6, False), (1, False)], 3) == 2
