"""Proposals of each strategy, and the rules that all of them obey."""

import dataclasses

import numpy as np
import pytest

import cola_jax
from cola_jax.path import KINDS, STOP, edited, identity
from cola_jax.scoring import Verdicts
from cola_jax.strategies.rules import PRESETS, EnumerateRules, InfluenceRules
from tests.strategies.formula import GOLD, checksum_answer, formula, questions

ORDER = (5, 2, 7, 0, 1, 3, 4, 6)
SETTINGS = {"simulations": 40, "leaves": 7, "num_layers": 8, "control": "none"}


@pytest.mark.parametrize(
    "name",
    ["random", "enumerate", "stochastic-beam", "greedy", "evolution", "early-exit", "cola", "best"],
)
def test_search_evaluates_legal_paths_each_once(name):
    ran = []
    rules = dataclasses.replace(PRESETS[name], max_length=1.5, max_move=2)
    outcomes = cola_jax.search(formula(ran=ran), questions(3), preset=rules, **SETTINGS)
    for b, outcome in enumerate(outcomes):
        assert outcome.question == questions(3)[b]
        assert outcome.paths[0] == identity(8)
        answers = [checksum_answer(b, path) for path in outcome.paths]
        np.testing.assert_array_equal(outcome.verdicts.answer, answers)
        if name == "greedy":  # ends where it has tried every edit of its best
            assert outcome.evaluations > 30
        else:
            assert outcome.evaluations == (8 if name == "early-exit" else 41)
        assert len(set(outcome.paths)) == outcome.evaluations
        assert [path for i, path in ran if i == b] == outcome.paths
        shortest, longest = rules.lengths(8)
        assert all(shortest <= len(path) <= longest == 12 for path in outcome.paths)
        assert set().union(*outcome.paths) <= set(range(8))
        assert np.bincount(outcome.wave).max() <= 7
        assert outcome.parent[0] == -1
        assert (outcome.parent[1:] < np.arange(1, outcome.evaluations)).all()
        if name == "cola":
            assert {KINDS[kind] for kind in outcome.edits[1:, 0]} == set(KINDS)
            assert (outcome.wave[1:] > outcome.wave[outcome.parent[1:]]).mean() > 0.5
        for node in range(1, outcome.evaluations):
            parent = outcome.paths[outcome.parent[node]]
            if outcome.describe_edit(node) is not None:
                assert edited(parent, outcome.edits[node]) == outcome.paths[node]
    assert (outcomes[0].paths == outcomes[1].paths) == (name == "early-exit")


def test_enumerate_runs_every_single_edit():
    rules = EnumerateRules(max_skip=1, max_repeat=1, max_times=1)
    (outcome,) = cola_jax.search(formula(), questions(1), preset=rules, **SETTINGS)
    path = identity(8)
    skips = [path[:i] + path[i + 1 :] for i in range(8)]
    repeats = [path[: i + 1] + path[i:] for i in range(8)]
    assert outcome.paths[0] == path
    assert sorted(outcome.paths[1:]) == sorted(skips + repeats)  # then it ends


def climb(paths):
    """A margin that grows with each layer skipped of the first four."""
    present = paths[..., 0] != STOP
    first = ((paths >= 0) & (paths < 4)).sum(axis=-1)
    scores = np.zeros((*present.shape, 2))
    scores[..., GOLD] = -2.5 - first
    return Verdicts.of_scores(scores, GOLD, present)


@pytest.mark.parametrize("name", ["stochastic-beam", "greedy", "evolution"])
def test_searches_by_margin_climb(name):
    rules = dataclasses.replace(PRESETS[name], max_repeat=0, max_skip=1, min_length=0.0)
    (outcome,) = cola_jax.search(
        climb, questions(1), preset=rules, **SETTINGS | {"simulations": 150}
    )
    assert not outcome.baseline
    assert outcome.verdicts.margin.max() == -2.5  # none of the first four layers is left


def test_early_exit_runs_prefixes_and_shortgpt_removes_the_least_influential_layers():
    influence = InfluenceRules(order=ORDER, min_length=0.5)
    without = [(0, 1, 2, 3, 4, 6, 7), (0, 1, 3, 4, 6, 7), (0, 1, 3, 4, 6), (1, 3, 4, 6)]
    prefixes = [tuple(range(n)) for n in range(7, 0, -1)]
    for rules, expected in ("early-exit", prefixes), (influence, without):
        (outcome,) = cola_jax.search(formula(), questions(1), preset=rules, **SETTINGS)
        assert outcome.paths == [identity(8), *expected]
    with pytest.raises(ValueError, match=r"give `order`.*block_influence"):
        cola_jax.search(formula(), questions(1), preset="shortgpt", **SETTINGS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_searches(name):
    """Also where the answers are the least friendly: every path is wrong, not finite or tied."""

    def wrong(paths):
        return Verdicts.empty(paths.shape[:2], 4)

    evaluations = 12
    settings = SETTINGS | {"simulations": evaluations, "control": "all"}
    for evaluate in (wrong, formula()):
        strategy = InfluenceRules(order=ORDER, min_length=0.0) if name == "shortgpt" else name
        outcomes = cola_jax.search(evaluate, questions(2), preset=strategy, **settings)
        for outcome in outcomes:
            few = name in ("early-exit", "shortgpt")
            assert outcome.evaluations == (8 if few else 13)
            assert len(outcome.controls) >= 2


def test_depth_budget_below_all_layers_is_reached():
    rules = dataclasses.replace(PRESETS["cola"], max_length=0.5, max_repeat=0)
    (outcome,) = cola_jax.search(formula(), questions(1), preset=rules, **SETTINGS)
    assert (outcome.lengths <= 4).sum() > 5
    assert outcome.lengths.max() == 8  # the identity path alone
    parents = outcome.lengths[outcome.parent[1:]]
    assert ((parents > 4) | (outcome.lengths[1:] <= 4)).all()
