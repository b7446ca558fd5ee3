"""`Facts`: the unit of margins, of runs that recorded it and of earlier ones."""

import pytest

from cola_jax.runs.facts import Facts


@pytest.mark.parametrize(
    ("scorer", "recorded", "unit"),
    [
        ("options", {}, "nats"),
        ("options-norm", {}, "score"),  # by name, in earlier runs
        ("brier", {"log_likelihoods": False}, "score"),
        ("brier", {"log_likelihoods": True}, "nats"),
    ],
)
def test_unit_of_margins_is_that_of_the_scorer(scorer, recorded, unit):
    assert Facts({"scorer": scorer}, {"scorer": recorded}).unit_of_margins == unit


def test_unit_of_margins_of_a_run_without_a_record_of_its_scorer():
    assert Facts({}, {}).unit_of_margins == "nats"
