"""Comparing strategies: effects, what is kept and costs of searches made by hand."""

import numpy as np
import pytest

from cola_jax.report.controls import AGAIN, ONCE, ROBUST, Case, Reached, Ways
from cola_jax.report.preference import Net
from experiments.strategies import Hits, Seed, first_hits, layers_run, measure

BASE = (0, 1, 2, 3)
GOLD, OWN, OTHER = 0, 1, 2
NONE = Reached(None, None, None)


def found(hits=(), holds=()):
    """A search of four evaluations; a hit runs as many layers as it was not late."""
    every = {node: (4 - node, -1.0) for node in hits}
    return Hits([BASE] * 4, every, {n: n in holds for n in every})


def seed(*questions, answers=(OWN, OWN)):
    """A strategy's searches of questions, each for gold, for another option and for its own."""
    asked, searches = [], {}
    for i, each in enumerate(questions):
        scores = np.array([[-2.0, -1.0, -2.0]] * 2)
        targets = dict.fromkeys((GOLD, OTHER, OWN)[: len(each)], NONE)
        asked.append(Case(f"q{i}", GOLD, list(answers), scores, targets))
        searches |= {(f"q{i}", target): one for target, one in zip(targets, each, strict=True)}
    return Seed(Ways(asked, (ONCE, AGAIN, ROBUST), True), searches)


def net(way, size, *seeds):
    return Net.of(measure(seeds, size, 4).targets[way][1])


def test_effects_count_what_is_reached_in_time():
    one = seed([found([1]), found([3])], [found([2]), found()])
    assert net(ONCE, 4, one).value == pytest.approx(0.5)
    assert net(ONCE, 3, one).value == pytest.approx(1.0)
    assert net(ONCE, 2, one).value == pytest.approx(0.5)
    assert net(ROBUST, 4, one).value == 0


def test_best_path_is_the_shortest_within_the_evaluations():
    """The last hit is the shortest; only the first one holds."""
    one = seed([found([1, 3], holds=[1]), found()])
    assert net(AGAIN, 3, one).value == 1
    assert net(AGAIN, 4, one).value == 0
    assert net(ROBUST, 4, one).value == 1


def test_right_questions_and_those_without_control_are_left_out():
    right = seed([found([0])], answers=(GOLD, GOLD))
    assert net(ONCE, 4, right).n == 0
    assert net(ONCE, 4, seed([found([1])])).n == 0
    assert net(ROBUST, 4, seed([found([1]), found()], answers=(OWN, GOLD))).n == 0
    assert net(ONCE, 4, seed([found([1]), found()], answers=(OWN, GOLD))).n == 1


def test_seeds_of_a_question_are_averaged():
    every = seed([found([1]), found()]), seed([found(), found()])
    _, targets = measure(every, 4, 4).targets[ONCE]
    assert targets.hits[0, [GOLD, OTHER]].tolist() == [0.5, 0]
    assert net(ONCE, 4, *every).value == pytest.approx(0.5)


def test_layers_kept_are_of_the_models_own_answers():
    one = seed([found(), found(), found([0, 2])], [found(), found(), found([0, 1])])
    kept = measure([one], 4, 4).kept
    assert (kept.wrong, kept.n_wrong, kept.n_right) == (1.5, 2, 0)


def test_first_hits_of_gold_and_of_controls():
    one = seed([found([1, 2]), found([3]), found([0])], [found(), found(), found([0])])
    gold, controls = first_hits([one], 4)
    assert (gold.tolist(), controls.tolist()) == ([1, 4], [3, 4])
    assert first_hits([one], 2)[1].tolist() == [2, 2]


def test_layers_are_run_once_for_each_prefix():
    one = Hits([BASE, (0, 1, 3), (0, 1, 3, 3)], {}, {})
    assert layers_run([one], 1) == 4
    assert layers_run([one], 2) == 5
    assert layers_run([one], 3) == 6
