"""The scorers by name."""

import typing

import pytest

import cola_jax.scoring
from cola_jax.scoring import SCORERS, Scorer, ScorerName, scorer_class, scorer_names


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
    assert scorer_names(open=True) == ["exact", "generation"]
    assert [name for name in SCORERS if scorer_class(name).decodes] == ["generation"]


def test_registry_names_every_scorer():
    every = [getattr(cola_jax.scoring, name) for name in cola_jax.scoring.__all__]
    kinds = {kind for kind in every if isinstance(kind, type) and issubclass(kind, Scorer)}
    named = {kind.name for kind in kinds if "name" in vars(kind)}
    assert named - {cola_jax.scoring.Completions.name} == set(SCORERS)
