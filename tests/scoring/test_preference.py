"""Tests against preference: exact values, level, power and intervals; and layers kept."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import poisson_binom

from cola_jax.scoring.preference import (
    UNWEIGHTED,
    Net,
    Preference,
    SavedLayers,
    Targets,
    number_by_chance,
)
from experiments.calibration import draw_golds, drawn


def rejected(count: int, **settings: float) -> float:
    random = np.random.default_rng(int(10 * settings["tau"]) + 1)
    tests = [
        Net.of(drawn(random=random, **settings), quick=True).p <= 0.05  # type: ignore[arg-type]
        for _ in range(count)
    ]
    return float(np.mean(tests))


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0])
def test_gold_by_preference_is_no_skill(tau: float):
    assert rejected(200, n=60, tau=tau) <= 0.07


def test_draw_golds_follows_the_weights():
    weight = np.tile([0.5, 0.2, 0.3], (20_000, 1))
    counts = np.bincount(draw_golds(weight, np.random.default_rng(0)), minlength=3) / len(weight)
    np.testing.assert_allclose(counts, [0.5, 0.2, 0.3], atol=0.02)
    assert draw_golds(np.array([[0.0, 1.0, 0.0]]), np.random.default_rng(0)).tolist() == [1]


def test_skill_is_found():
    """The odds of a reached target to be gold are such that the effect is 24 points."""
    many = Net.of(drawn(20_000, 0.5, np.random.default_rng(0), skill=1.25), quick=True)
    assert many.value == pytest.approx(0.24, abs=0.02)
    assert rejected(100, n=60, tau=0.5, skill=1.25) >= 0.7


def test_the_test_of_like_targets_is_exact():
    """Against all ways to call one of each question's targets gold."""
    hits = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], bool)
    gaps = np.zeros((4, 4))
    gaps[1, 3] = gaps[2, 2:] = np.nan
    reached = [row[~np.isnan(gap)].tolist() for row, gap in zip(hits, gaps, strict=True)]
    ways = [sum(way) for way in itertools.product(*reached)]
    tails = np.mean([way >= 3 for way in ways]), np.mean([way <= 3 for way in ways])
    net = Net.of(Targets(hits, gaps, weighted=False))
    assert net.p == pytest.approx(2 * min(tails))
    assert (net.reached, net.informative) == (3, 3)
    assert net.expected == pytest.approx(1 / 4 + 2 / 3 + 1 / 2 + 1)
    # a mean over pairs of targets, of which a question has as many as it has chances
    scale = sum(1 - 1 / len(row) for row in reached)
    assert net.value == pytest.approx((3 - net.expected) / scale)
    assert math.isnan(net.interval[0])
    drawn_p = Net.of(Targets(hits, gaps), UNWEIGHTED)
    assert drawn_p.p == pytest.approx(net.p, abs=0.02)


def test_number_by_chance_is_that_of_independent_questions():
    assert number_by_chance(np.full(20, 0.5)) == (6, 14)  # binomial
    assert number_by_chance(np.array([1.0, 1.0, 0.0])) == (2, 2)
    assert number_by_chance(np.ones(0)) == (0, 0)
    chances = np.random.default_rng(0).random(1001)
    low, high = number_by_chance(chances)
    below = poisson_binom(chances).cdf([low - 1, low, high - 1, high])
    assert below[0] < 0.025 <= below[1] < below[2] < 0.975 <= below[3]
    normal = 1.96 * math.sqrt(200_000 / 4)  # of as many as no sum one by one would end for
    wide = number_by_chance(np.full(200_000, 0.5))
    assert wide == pytest.approx((100_000 - normal, 100_000 + normal), abs=1)


def test_reached_lies_outside_the_range_by_chance_where_p_is_small():
    for seed in range(6):
        net = Net.of(drawn(60, 0.5, np.random.default_rng(seed), skill=0.2 * seed), quick=True)
        low, high = net.by_chance
        assert (net.p <= 0.05) == (not low <= net.reached <= high)
        assert net.difference == pytest.approx(net.value * net.scale / net.n)


def test_preference_that_decides_says_so():
    """Gold is always the first choice by far, so that whatever is reached tells nothing."""
    gaps = np.tile([0.0, 9.0, 9.0], (40, 1))
    hits = np.tile([True, False, False], (40, 1))
    assert Net.of(Targets(hits, gaps)).undecided
    assert not Net.of(Targets(hits, gaps), Preference(0.1, 0)).undecided
    nothing = Net.of(Targets(np.zeros((2, 2), bool), np.array([[0, np.nan]] * 2)))
    assert (nothing.n, nothing.reached, nothing.undecided) == (0, 0, False)
    assert math.isnan(nothing.p)


def test_preference_is_found_again():
    random = np.random.default_rng(0)
    fitted = Preference.fit(drawn(2000, 1.0, random).gaps)
    assert fitted.tau == pytest.approx(1, abs=3 * fitted.error)
    assert fitted.error < 0.1


def test_interval_inverts_the_test():
    random = np.random.default_rng(3)
    targets = drawn(50, 0.5, random, skill=1.25)
    net = Net.of(targets)
    low, high = net.interval
    assert low < net.value < high
    assert (net.p <= 0.05) == (low > 0 or high < 0)


def test_change_between_runs_is_what_one_reaches_more():
    random = np.random.default_rng(0)
    targets = drawn(60, 0.5, random, skill=1.5)
    same = Net.of(targets, before=targets.hits)
    assert (same.value, same.p, same.informative) == (0, 1, 0)
    blind = random.permuted(targets.hits, axis=1)  # reaches as many targets, none for its truth
    assert Net.of(targets, before=blind).value > 0.1
    assert Net.of(targets._replace(hits=blind), before=targets.hits).value < -0.1


def draw_kept(random: np.random.Generator, effect: float, n: int = 60) -> SavedLayers:
    """Sure answers are right more often and kept on fewer layers, whether right or not."""
    margin = random.exponential(1.0, n)
    right = random.random(n) < 1 / (1 + np.exp(0.5 - margin))
    saved = 3 + 2 * np.minimum(margin, 2) + effect * right + random.normal(0, 1.5, n)
    return SavedLayers.of(saved, right, margin)


def test_confidence_alone_is_no_effect():
    random = np.random.default_rng(0)
    every = [draw_kept(random, 0) for _ in range(300)]
    assert np.mean([kept.p <= 0.05 for kept in every]) <= 0.08
    assert np.mean([kept.interval[0] <= 0 <= kept.interval[1] for kept in every]) >= 0.92
    assert np.mean([kept.right - kept.wrong for kept in every]) > 0.3  # without regard to it


def test_an_effect_is_found():
    random = np.random.default_rng(0)
    every = [draw_kept(random, 2) for _ in range(50)]
    assert np.mean([kept.difference for kept in every]) == pytest.approx(2, abs=0.2)
    assert np.mean([kept.p <= 0.05 for kept in every]) >= 0.8


def test_few_questions_have_no_interval():
    right = np.arange(30) < 9
    few = SavedLayers.of(2.0 * right, right, np.arange(30.0))
    assert (few.n_right, few.n_wrong, few.right, few.wrong) == (9, 21, 2, 0)
    assert few.difference == pytest.approx(2)
    assert math.isnan(few.interval[0])
    same = SavedLayers.of(np.full(40, 3.0), np.arange(40) < 20, np.arange(40.0))  # nothing differs
    assert (same.right, same.wrong) == (3, 3)
    assert math.isnan(same.p)
    none = SavedLayers.of(np.ones(3), np.ones(3, bool), np.ones(3))
    assert math.isnan(none.wrong)
    assert math.isnan(none.difference)
