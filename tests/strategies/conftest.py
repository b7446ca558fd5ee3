"""Fixtures of the searches' tests: a search that several files look at."""

import pytest

import cola_jax
from cola_jax.strategies.outcome import Outcome
from tests.strategies.formula import formula, questions


@pytest.fixture(scope="session")
def outcomes() -> list[Outcome]:
    """A search of a hundred evaluations for four questions, by the default rules."""
    return cola_jax.search(formula(), questions(4), simulations=100, leaves=16, num_layers=12)
