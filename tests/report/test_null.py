"""What searches for any answer give, and what a run could show."""

import numpy as np
import pytest

from cola_jax.report.null import draw_golds, null
from cola_jax.scoring.preference import Net
from experiments.calibration import drawn


def test_nothing_is_found_in_golds_that_are_drawn():
    """Though gold is reached far more often than its controls, by skill."""
    targets = drawn(60, 0.5, np.random.default_rng(0), skill=2.5)
    assert Net.of(targets, quick=True).p < 0.01
    result = null(targets, None, 60)
    assert result.n == 60
    for rate in (result.at_random, result.preferred):
        assert abs(rate.net.value) < 0.05
        assert rate.rejected.value <= 0.12
    assert 0.1 < result.smallest < 0.4
    gaps = targets.gaps
    assert result.balance.value == pytest.approx((gaps[:, 1:].mean(axis=1) - gaps[:, 0]).mean())


def test_draws_follow_the_weights():
    weight = np.tile([0.5, 0.2, 0.3], (20_000, 1))
    counts = np.bincount(draw_golds(weight, np.random.default_rng(0)), minlength=3) / len(weight)
    np.testing.assert_allclose(counts, [0.5, 0.2, 0.3], atol=0.02)
    assert draw_golds(np.array([[0.0, 1.0, 0.0]]), np.random.default_rng(0)).tolist() == [1]
