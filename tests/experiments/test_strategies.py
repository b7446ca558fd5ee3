"""Comparing strategies: effects, first hits and costs of searches made by hand."""

import numpy as np
import pytest

from cola_jax.scoring.net import Net
from cola_jax.strategies.reached import AGAIN, ONCE, Case, Reached, Ways
from experiments.strategies import Hits, Seed, first_hits, layers_run, measure

BASE = (0, 1, 2, 3)
GOLD, OWN, OTHER = 0, 1, 2
NONE = Reached(None, None)


def searched(hits=(), holds=()):
    """A search of four evaluations; a later hit runs fewer layers."""
    every = {node: (4 - node, -1.0) for node in hits}
    return Hits([BASE] * 4, every, {n: n in holds for n in every})


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
    return Net.of(measure([searches], size, 4).targets[way][1]).value


def test_effects_count_hits_within_the_evaluations():
    searches = seed([searched([1]), searched([3])], [searched([2]), searched()])
    effects = [net(ONCE, size, searches) for size in (2, 3, 4)]
    assert effects == pytest.approx([0.5, 1.0, 0.5])
    assert net(AGAIN, 4, searches) == 0
    assert measure([searches], 3, 4).targets.keys() == {ONCE}  # the best were not asked again
    assert net(AGAIN, 4, seed([searched([1, 3], holds=[3]), searched()])) == 1


def test_first_hits_of_gold_and_of_controls():
    searches = seed(
        [searched([1, 2]), searched([3]), searched([0])], [searched(), searched(), searched([0])]
    )
    gold, controls = first_hits([searches], 4)
    assert (gold.tolist(), controls.tolist()) == ([1, 4], [3, 4])
    assert first_hits([searches], 2)[1].tolist() == [2, 2]


def test_layers_are_run_once_for_each_prefix():
    hits = Hits([BASE, (0, 1, 3), (0, 1, 3, 3)], {}, {})
    assert [layers_run([hits], size) for size in (1, 2, 3)] == [4, 5, 6]
