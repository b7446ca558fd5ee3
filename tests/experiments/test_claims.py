"""Claims of earlier trials, decided again from what they recorded."""

import numpy as np
import pytest

from cola_jax.deploy.verify.verdict import Judged, decide
from cola_jax.scoring.statistics import Crossed
from experiments.claims import recorded_effect


def test_recorded_effect_has_the_tests_of_the_trial():
    random = np.random.default_rng(0)
    differences = random.integers(-1, 2, (40, 6)) * (random.random((40, 6)) < 0.5)
    effect = Crossed.of(differences + np.repeat(random.integers(-1, 2, (40, 1)), 6, axis=1))
    (verdict,) = decide([Judged(effect, shorter=False)], 0.03)
    estimates = {each.name: each for each in verdict.estimates("0-28", "accuracy")}
    again = recorded_effect(estimates["points more"], estimates)
    assert (again.se, again.df) == pytest.approx((effect.se, effect.df))
    assert (again.p, again.interaction_p) == pytest.approx((effect.p, effect.interaction_p))
