"""Comparing strategies: effects, first hits and costs of searches made by hand."""

import numpy as np
import pytest

from cola_jax.layer_costs import LayerCosts
from cola_jax.scoring.net import Net
from cola_jax.steps import MLP, Step
from cola_jax.strategies.reached import AGAIN, ONCE, Case, Reached, Ways
from experiments.strategies import (
    Budget,
    Hits,
    Seed,
    first_hits,
    layers_after,
    layers_run,
    measure,
)

GOLD, OWN, OTHER = 0, 1, 2
NONE = Reached(None, None)


def searched(hits=(), holds=()):
    """A search of four evaluations; a later hit runs fewer layers."""
    every = {node: (4 - node, -1.0) for node in hits}
    return Hits([4.0, 5.0, 6.0, 7.0], every, {n: n in holds for n in every})


def seed(*questions):
    """A strategy's searches of questions, each for gold, for another option and for its own."""
    cases, by_target = [], {}
    for i, each in enumerate(questions):
        scores = np.array([[-2.0, -1.0, -2.0]] * 2)
        targets: dict[int, Reached] = dict.fromkeys((GOLD, OTHER, OWN)[: len(each)], NONE)
        cases.append(Case(f"q{i}", GOLD, False, [OWN, OWN], scores, targets, [1, 1, 1], 4, 0.5))
        by_target |= {(f"q{i}", target): hits for target, hits in zip(targets, each, strict=True)}
    return Seed(Ways(cases, (ONCE, AGAIN), True), by_target)


def net(way, size, searches):
    return Net.of(measure([searches], Budget(size), 4).targets[way][1]).value


def test_effects_count_hits_within_the_evaluations():
    searches = seed([searched([1]), searched([3])], [searched([2]), searched()])
    effects = [net(ONCE, size, searches) for size in (2, 3, 4)]
    assert effects == pytest.approx([0.5, 1.0, 0.5])
    assert net(AGAIN, 4, searches) == 0
    assert measure([searches], Budget(3), 4).targets.keys() == {
        ONCE
    }  # the best were not asked again
    assert net(AGAIN, 4, seed([searched([1, 3], holds=[3]), searched()])) == 1


def test_first_hits_of_gold_and_of_controls():
    searches = seed(
        [searched([1, 2]), searched([3]), searched([0])], [searched(), searched(), searched([0])]
    )
    gold, controls = first_hits([searches], Budget(4))
    assert (gold.evaluations, controls.evaluations) == ([1, 4], [3, 4])
    assert (gold.found, controls.found) == ([True, False], [True, False])
    assert first_hits([searches], Budget(2))[1] == ([2, 2], [False, False])
    # after five layers, a search has made two evaluations
    assert first_hits([searches], Budget(4, layers=5.5)) == first_hits([searches], Budget(2))


def test_layers_are_run_once_for_each_prefix():
    paths = [(0, 1, 2, 3), (0, 1, 3), (0, 1, 3, 3), (0, 1, Step(3, MLP).id)]
    costs = LayerCosts(4, parts=((0.25, 0.75),) * 4)
    assert layers_after(paths, costs) == [4, 5, 6, 6.75]
    assert layers_run([seed([searched()])], Budget(3)) == 6
