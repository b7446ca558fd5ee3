import math

import numpy as np
import pytest
from scipy.stats import nct, t

from cola_jax.scoring.statistics import Crossed, Difference, Mean, Share, holm


def test_share_interval_is_wilson():
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = 2/5, z = 1.95996
    assert Share(2, 5).interval == pytest.approx((0.117621, 0.769276), abs=1e-6)
    assert Share(0, 5).interval == pytest.approx((0, 0.434482), abs=1e-6)
    assert all(math.isnan(x) for x in (Share(0, 0).value, *Share(0, 0).interval))


def test_difference_interval_is_bonett_price():
    # 1/11 ± z sqrt((5/11 - 1/121) / 11)
    assert Difference(2, 1, 9).value == pytest.approx(1 / 9)
    assert Difference(2, 1, 9).interval == pytest.approx((-0.303872, 0.485690), abs=1e-5)
    assert all(math.isnan(x) for x in (Difference(0, 0, 0).value, *Difference(0, 0, 0).interval))


def test_difference_of_is_paired():
    first = np.array([True, True, False, False])
    second = np.array([True, False, True, False])
    assert Difference.of(first, second) == Difference(1, 1, 4)
    assert Difference.of(first, ~first) == Difference(2, 2, 4)


def test_mean_interval_is_students():
    assert Mean.of(np.array([1.0, 2.0, 3.0])) == (2, pytest.approx((-0.484, 4.484), abs=1e-3))
    assert math.isnan(Mean.of(np.zeros(0)).value)
    assert math.isnan(Mean.of(np.ones(1)).interval[0])


def test_holm_corrects_for_the_p_values_there_are():
    assert holm([0.04, 0.01, math.nan, 0.03])[:2] == pytest.approx([0.06, 0.03])
    assert holm([0.04, 0.01, math.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(holm([0.04, math.nan])[1])
    assert holm([0.9, 0.8]) == [1, 1]


def test_crossed_is_an_analysis_of_variance_by_hand():
    crossed = Crossed.of(np.array([[0, 0, 1], [1, 0, 2], [2, 1, 3], [1, 2, 3]]))
    assert crossed.value == pytest.approx(4 / 3)
    assert crossed.squares == pytest.approx((2, 31 / 12, 1 / 4))
    assert crossed.se == pytest.approx(math.sqrt((2 + 31 / 12 - 1 / 4) / 12))
    satterthwaite = (13 / 3) ** 2 / (4 / 3 + (31 / 12) ** 2 / 2 + (1 / 16) / 6)
    assert crossed.df == pytest.approx(2 / (1 / satterthwaite + 1 / 2))
    assert crossed.interaction_p == pytest.approx((1 + 31 / 9) ** -3)  # F(2, 6) of 31/3
    assert (crossed.prompt_sd, crossed.question_sd) == pytest.approx((math.sqrt(7 / 12),) * 2)
    assert crossed.p == pytest.approx(2 * t.sf(4 / 3 / crossed.se, crossed.df))
    # a column is 1, 0, 1, 2 less 0.25: Student's interval with 3 degrees of freedom
    assert crossed.by_prompt[1].value == 0.75
    assert crossed.by_prompt[0].interval == pytest.approx(Mean.of(np.array([0, 1, 2, 1])).interval)


def test_crossed_counts_prompts_that_agree_by_chance_as_residual():
    crossed = Crossed.of(np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [5, 5, 5]]))
    assert crossed.squares == pytest.approx((12, 0, 3))
    assert crossed.se == pytest.approx(1)  # of questions alone
    satterthwaite = 12**2 / (12**2 / 3 + 3**2 / 2 + 3**2 / 6)
    assert crossed.df == pytest.approx(2 / (1 / satterthwaite + 1 / 2))
    assert (crossed.prompt_sd, crossed.interaction_p) == (0, 1)


def test_crossed_with_one_prompt_draws_questions_alone():
    values = np.array([0.5, -1.5, 2, 4, 1])
    crossed = Crossed.of(values[:, None])
    assert (crossed.value, crossed.interval) == Mean.of(values)
    assert crossed.by_prompt == (Mean.of(values),)
    assert math.isnan(crossed.interaction_p)


def test_crossed_without_any_change_claims_little():
    zeros = Crossed.of(np.zeros((5, 8)))
    assert (zeros.p, zeros.interaction_p) == (1, 1)
    assert zeros.interval == pytest.approx((-0.561, 0.561), abs=1e-3)  # 2.776 sqrt(2) / 7
    assert zeros.noninferior_p(0.03) == pytest.approx(0.97**5)
    assert Crossed.of(np.zeros((100, 8))).noninferior_p(0.03) > 0.05
    assert Crossed.of(np.zeros((150, 8))).noninferior_p(0.03) < 0.05
    for n in (0, 1):
        few = Crossed.of(np.zeros((n, 3)))
        assert all(map(math.isnan, (few.p, few.noninferior_p(0.03), *few.interval)))


def test_crossed_of_one_question_that_is_gained_and_lost():
    values = np.zeros((100, 3))
    values[0] = 1, -1, 0
    crossed = Crossed.of(values)
    assert crossed.squares == pytest.approx((0, 0.01, 0.01))  # without a variance of the mean
    assert crossed.error == (pytest.approx(math.sqrt(2) / 102), 99)


def test_crossed_does_not_test_rounding_errors():
    same = np.repeat([[1], [0], [0], [1], [0], [-1], [1.0]], 3, axis=1)
    assert Crossed.of(same).interaction_p == 1


def test_noninferior_p_is_at_least_binomial():
    lost = np.zeros((160, 4))
    lost[:2] = -1
    chance = sum(math.comb(160, k) * 0.03**k * 0.97 ** (160 - k) for k in range(3))
    assert Crossed.of(lost).noninferior_p(0.03) == pytest.approx(chance)


def test_detectable_is_shown_with_its_power():
    crossed = Crossed.of(np.random.default_rng(0).normal(size=(30, 4)))
    shift = crossed.detectable(0.9, alpha=0.01) / crossed.se
    assert nct.sf(t.isf(0.005, crossed.df), crossed.df, shift) == pytest.approx(0.9, abs=1e-4)


def test_crossed_errs_as_often_as_it_says_where_questions_alone_do_not():
    random = np.random.default_rng(0)
    wrong, alone = 0, 0
    for _ in range(400):
        values = random.normal(size=(60, 8)) + random.normal(0, 0.25, 8)
        wrong += Crossed.of(values).p <= 0.05
        low, high = Mean.of(values.mean(1)).interval
        alone += not low <= 0 <= high
    assert wrong / 400 <= 0.07  # 5 %, two standard errors above
    assert alone / 400 >= 0.3


def test_interval_of_a_difference_includes_0_where_the_exact_test_does_not_reject_it():
    assert Difference(14, 5, 100).p == pytest.approx(0.0636, abs=1e-4)
    assert Difference(14, 5, 100).interval == (0.0, pytest.approx(0.1746, abs=1e-4))
    assert Difference(5, 14, 100).interval == (pytest.approx(-0.1746, abs=1e-4), 0.0)
    for gained in range(60):
        for lost in range(60):
            for alpha in (0.05, 0.01):
                each = Difference(gained, lost, 200)
                low, high = each.interval_at(alpha)
                assert each.p <= alpha or low <= 0 <= high
