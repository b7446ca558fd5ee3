"""Layers saved on right answers that are kept, beside those saved on wrong ones."""

import math

import numpy as np
import pytest

from cola_jax.scoring.saved_layers import SavedLayers


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
