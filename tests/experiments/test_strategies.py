"""Comparing strategies: effects, savings and costs of searches made by hand."""

import pytest

from experiments.strategies import Search, effect, layers_run, saved

BASE = (0, 1, 2, 3)


def search(hits=(), plain=False, robust=()):
    """A search of four evaluations; a hit runs as many layers as it was not late."""
    lengths = {node: 4 - node for node in hits}
    return Search([BASE] * 4, lengths, {n: lengths[n] for n in robust}, [plain, plain])


def test_effect_counts_what_is_reached_in_time():
    found = [[[search([1]), search([3])]], [[search([2]), search()]]]
    assert effect(found, 4, robust=False).value == pytest.approx(0.5)
    assert effect(found, 3, robust=False).value == pytest.approx(1.0)
    assert effect(found, 2, robust=False).value == pytest.approx(0.5)
    assert effect(found, 4, robust=True).value == 0


def test_effect_leaves_out_right_questions_and_those_without_control():
    right = [[search([0], plain=True), search([1])]]
    alone = [[search([1])]]
    assert effect([right, alone], 4, robust=False).n == 0
    assert effect([right, [[search([1]), search()]]], 4, robust=False).n == 1


def test_effect_averages_the_seeds_of_a_question():
    seeds = [[search([1]), search()], [search(), search()]]
    one = effect([seeds, seeds], 4, robust=False)
    assert (one.value, one.n) == (pytest.approx(0.5), 2)
    assert one.interval == (pytest.approx(0.5), pytest.approx(0.5))
    assert one.p != one.p


def test_layers_saved_are_those_beyond_control():
    found = [[[search([0, 2], plain=True, robust=[0]), search([1])]]]
    assert saved(found, 4, 4, robust=False).value == pytest.approx(2 - 1)
    assert saved(found, 2, 4, robust=False).value == pytest.approx(0 - 1)
    assert saved(found, 4, 4, robust=True).value == pytest.approx(0 - 0)


def test_layers_are_run_once_for_each_prefix():
    one = Search([BASE, (0, 1, 3), (0, 1, 3, 3)], {}, {}, [False])
    assert layers_run([one], 1) == 4
    assert layers_run([one], 2) == 5
    assert layers_run([one], 3) == 6
