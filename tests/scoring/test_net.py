"""The test of gold against preference: exact values, level, power and intervals."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import poisson_binom

from cola_jax.scoring.net import Net, number_by_chance
from cola_jax.scoring.preference import UNWEIGHTED, Preference, Targets
from experiments.calibration import GOLDS, SKILLS, draw_golds, drawn, searched


def second_p(targets: Targets, draws: int = 4000) -> float:
    """Test hits once more, in plain numpy: gold is drawn by the fitted chances, a question a draw.

    Hits are replaced by the residuals of their weighted regression on covariates within questions.
    """
    chance = Preference.fit(targets).weights(targets)
    rows, columns, hits, root = [], [], [], []
    for w, x, h in zip(chance, targets.covariates, targets.hits, strict=True):
        rows.append((x - w @ x) * np.sqrt(w)[:, None])
        columns.append(x)
        hits.append(h.astype(float))
        root.append((h - w @ h) * np.sqrt(w))
    slope, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(root), rcond=1e-6)
    residuals = [h - x @ slope for h, x in zip(hits, columns, strict=True)]
    middle = sum(w @ r for w, r in zip(chance, residuals, strict=True))
    observed = sum(r[0] for r in residuals) - middle
    random = np.random.default_rng(1)
    sums = np.zeros(draws)
    for w, r in zip(chance, residuals, strict=True):
        sums += r[random.choice(len(w), draws, p=w / w.sum())]
    # two free targets a question, of which the fit has used five
    free = 2 * len(hits)
    sums = (sums - middle) * np.sqrt(free / (free - 5))
    above = np.mean(sums >= observed - 1e-6)
    below = np.mean(sums <= observed + 1e-6)
    return float(min(1, 2 * min(above, below)))


@pytest.mark.parametrize("skill", [-0.8, 0.0, 0.5, 1.0])
def test_p_is_that_of_a_second_implementation(skill: float):
    targets = drawn(50, 0.7, np.random.default_rng(8), skill)
    assert Net.of(targets).p == pytest.approx(second_p(targets), abs=0.035)


@pytest.mark.parametrize("gold", GOLDS)
def test_gold_by_what_the_model_prefers_is_no_skill(gold: str):
    """Whatever preference alone makes gold, searches reach it no more often than expected."""
    random = np.random.default_rng(4)
    shown = []
    for _ in range(40):
        targets = searched(60, random)
        net = Net.of(targets.relabel(draw_golds(GOLDS[gold](targets), random)), quick=True)
        shown.append(net.p <= 0.05 and not net.undecided)
    assert np.mean(shown) <= 0.175  # 5 % of 40 draws, to the 99.9 % quantile


def test_draw_golds_follows_the_weights():
    weight = np.tile([0.5, 0.2, 0.3], (20_000, 1))
    counts = np.bincount(draw_golds(weight, np.random.default_rng(0)), minlength=3) / len(weight)
    np.testing.assert_allclose(counts, [0.5, 0.2, 0.3], atol=0.02)
    assert draw_golds(np.array([[0.0, 1.0, 0.0]]), np.random.default_rng(0)).tolist() == [1]


def test_skill_is_found():
    """The odds of a reached target to be gold are such that the effect is 24 points."""
    skill = SKILLS[24]
    many = Net.of(drawn(20_000, 0.5, np.random.default_rng(0), skill), quick=True)
    assert many.value == pytest.approx(0.24, abs=0.02)
    random = np.random.default_rng(6)
    tests = [Net.of(drawn(60, 0.5, random, skill), quick=True).p <= 0.05 for _ in range(40)]
    assert np.mean(tests) >= 0.6


def test_the_test_of_like_targets_is_exact():
    """Against all ways to call one of each question's targets gold."""
    hits = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], bool)
    gaps = np.zeros((4, 4))
    gaps[1, 3] = gaps[2, 2:] = np.nan
    reached = [row[~np.isnan(gap)].tolist() for row, gap in zip(hits, gaps, strict=True)]
    ways = [sum(way) for way in itertools.product(*reached)]
    tails = np.mean([way >= 3 for way in ways]), np.mean([way <= 3 for way in ways])
    alike = Targets(hits, gaps, np.ones(gaps.shape), weighted=False)
    net = Net.of(alike)
    assert net.p == pytest.approx(2 * min(tails))
    assert (net.reached, net.informative) == (3, 3)
    assert net.expected == pytest.approx(1 / 4 + 2 / 3 + 1 / 2 + 1)
    # a mean over pairs of targets, of which a question has as many as it has chances
    scale = sum(1 - 1 / len(row) for row in reached)
    assert net.value == pytest.approx((3 - net.expected) / scale)
    assert math.isnan(net.interval[0])
    drawn_p = Net.of(alike._replace(weighted=True), UNWEIGHTED)
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
    targets = Targets(hits, gaps, np.ones(gaps.shape))
    assert Net.of(targets).undecided
    assert not Net.of(targets, Preference.of_score(0.1)).undecided
    nothing = Net.of(Targets(np.zeros((2, 2), bool), np.array([[0, np.nan]] * 2), np.ones((2, 2))))
    assert (nothing.n, nothing.reached, nothing.undecided) == (0, 0, False)
    assert math.isnan(nothing.p)


def test_interval_inverts_the_test():
    random = np.random.default_rng(3)
    targets = drawn(50, 0.5, random, skill=1.25)
    net = Net.of(targets)
    low, high = net.interval
    assert low < net.value < high
    assert (net.p <= 0.05) == (low > 0 or high < 0)


def test_change_between_runs_is_what_one_reaches_more():
    random = np.random.default_rng(0)
    targets = drawn(200, 0.5, random, skill=2.0)
    same = Net.of(targets, before=targets.hits)
    assert (same.value, same.p, same.informative) == (0, 1, 0)
    blind = random.permuted(targets.hits, axis=1)  # reaches as many targets, none for its truth
    assert Net.of(targets, before=blind).value > 0.1
    assert Net.of(targets._replace(hits=blind), before=targets.hits).value < -0.1
