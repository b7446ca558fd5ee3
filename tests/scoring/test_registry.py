"""The scorers by name."""

import typing

import pytest

from cola_jax.scoring import SCORERS, scorer_class
from cola_jax.tasks.task import ScorerName


def test_scorer_class_knows_every_name():
    assert set(SCORERS) == set(typing.get_args(ScorerName))
    for name in SCORERS:
        assert scorer_class(name).name == name


@pytest.mark.parametrize("name", ["mine", "", "Options", "generate"])
def test_scorer_class_refuses_unknown_name(name):
    names = "options, options-norm, letter, letter-strict, exact, generation"
    with pytest.raises(ValueError, match=f"^scorer '{name}' is not one of {names}"):
        scorer_class(name)


def test_scorers_say_what_they_are_for():
    assert {name for name, scorer in SCORERS.items() if scorer.open} == {"exact", "generation"}
    assert {name for name, scorer in SCORERS.items() if scorer.decodes} == {"generation"}
