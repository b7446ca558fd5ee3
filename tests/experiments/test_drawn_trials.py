"""Drawn trials: many at once as one by one, and the rules of before."""

import numpy as np
import pytest
from scipy import stats

from cola_jax.deploy.verify.verdict import Judged, decide
from cola_jax.scoring.statistics import ALPHA, Crossed
from experiments.drawn_trials import (
    NOTHING_SHARED,
    DrawnTrials,
    Truth,
    decided,
    decided_before,
    draw_chosen,
    draw_trials,
    error_before,
    own_sd,
    p_values_before,
)

MARGIN = 0.03


def differences(random, draws: int, claims: int, prompts: int, n: int) -> np.ndarray:
    changed = random.integers(-1, 2, (draws, claims, prompts, n)).astype(np.int8)
    changed[0] = 0  # nothing changes
    changed[1, :, :, 1:] = 0  # one question does
    return changed * (random.random(changed.shape) < 0.3)


@pytest.mark.parametrize(("prompts", "n"), [(1, 30), (3, 40), (8, 25)])
def test_mean_squares_are_those_of_each_trial(prompts, n):
    drawn = differences(np.random.default_rng(0), 5, 3, prompts, n)
    trials = DrawnTrials.of(drawn)
    for draw, claims in enumerate(drawn):
        for crossed, each in zip(trials.crossed(draw), claims, strict=True):
            expected = Crossed.of(each.T)
            assert crossed.squares == pytest.approx(expected.squares, abs=2e-15, nan_ok=True)
            assert crossed.value == pytest.approx(expected.value)
            assert (crossed.n, crossed.prompts) == (n, prompts)
            assert crossed.error == pytest.approx(expected.error, abs=1e-12)
            assert crossed.added == expected.added


@pytest.mark.parametrize("shorter", [False, True])
def test_decided_is_the_decision_of_a_trial(shorter):
    """A p-value is 1 where a trial has nothing significant, and otherwise that of the trial."""
    truths = [Truth(0.45, 0.0, 0.05), Truth(0.45, -MARGIN), Truth(0.98)]
    found = 0
    for trials in draw_trials(60, (60, 4), 3, truths).values():
        single = p_values_before(trials, MARGIN)
        everything = np.ones(60, bool)
        corrected = decided(trials, MARGIN, single, everything, shorter=shorter)
        for draw in range(60):
            judged = [Judged(effect, shorter) for effect in trials.crossed(draw)]
            verdicts = decide(judged, MARGIN)
            every = [(v.p, v.noninferior_p, v.interaction_p) for v in verdicts]
            if np.nanmin(every) <= ALPHA:
                found += 1
                here = np.array(corrected)[:, draw].T
                assert here == pytest.approx(np.nan_to_num(every, nan=1.0))
            else:
                assert np.min(np.array(corrected)[:, draw]) > ALPHA
    assert found > 10


def test_trials_were_decided_by_satterthwaite_and_holm_over_effects():
    (trials,) = draw_trials(20, (80, 4), 3, [Truth(0.45, 0.05, 0.05)]).values()
    error, df = error_before(trials)
    single = p_values_before(trials, MARGIN)
    squares = np.array([crossed.squares for crossed in trials.crossed(7)])
    questions, prompts, residual = squares[1]
    variance = questions + max(prompts, residual) - residual
    parts = questions**2 / 79 + max(prompts, residual) ** 2 / 3 + residual**2 / 237
    assert error[7, 1] == pytest.approx(np.sqrt(variance / 320))
    assert df[7, 1] == pytest.approx(variance**2 / parts)
    quotient = abs(trials.value[7, 1]) / error[7, 1]
    assert single.effect[7, 1] == pytest.approx(2 * stats.t.sf(quotient, df[7, 1]))
    before = decided_before(single)
    smallest, *_ = order = np.argsort(single.effect[7])
    assert before.effect[7, smallest] == pytest.approx(min(1, 3 * single.effect[7, smallest]))
    assert (np.diff(before.effect[7, order]) >= 0).all()
    assert before.depends is single.depends


def test_drawn_trials_have_their_truth():
    truths = [Truth(0.6, 0.0, 0.05), Truth(0.6, -0.1), Truth(0.98, 0.0, 0.02)]
    for truth, trials in draw_trials(60, (200, 40), 2, truths).items():
        assert trials.value.mean() == pytest.approx(truth.effect, abs=0.004)
        effects = [crossed for draw in range(60) for crossed in trials.crossed(draw)]
        between = np.mean([each.prompt_sd**2 for each in effects]) ** 0.5
        assert between == pytest.approx(truth.prompt_sd, abs=0.012)


def test_effects_of_prompts_that_are_alike_correlate():
    alone, alike = (Truth(0.5, 0.0, 0.05, together) for together in (1, 8))
    drawn = draw_trials(200, (100, 8), 1, [alone, alike])
    assert drawn[alike].value.std() > 1.5 * drawn[alone].value.std()
    assert own_sd(0.5, 0.0) == 0


def test_the_best_of_many_claims_looks_good_on_the_questions_that_chose_it():
    chosen = draw_chosen(60, 50, 20, Truth(0.45))
    means = {where: trials.value.mean() for where, trials in chosen.items()}
    assert [trials.size for trials in chosen.values()] == [(50, 1), (50, 8), (50, 8)]
    assert means["the same questions in the same prompt"] > 0.06
    assert abs(means[NOTHING_SHARED]) < 0.015
