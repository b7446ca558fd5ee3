"""The best of many: corrected p-values and halves."""

import numpy as np
import pytest
from scipy.stats import binom

from cola_jax.report.chosen import chosen_elsewhere, flip_test, halves


def test_flip_test_of_one_path_is_the_sign_test() -> None:
    differences = np.array([[1]] * 8 + [[-1]] * 2 + [[0]] * 5)
    p = flip_test(np.hstack([differences, -differences]))
    assert p == pytest.approx(2 * binom.sf(7, 10, 0.5), abs=0.01)  # of either sign


def test_flip_test_corrects_for_the_number_of_paths() -> None:
    random = np.random.default_rng(0)
    smallest = []
    for seed in range(60):
        labels = random.integers(-1, 2, (40, 100))
        smallest.append(flip_test(labels, flips=400, seed=seed).min())
    assert np.mean(np.array(smallest) <= 0.1) == pytest.approx(0.1, abs=0.09)
    assert np.mean(smallest) == pytest.approx(0.5, abs=0.12)


def test_flip_test_finds_an_effect_among_many() -> None:
    random = np.random.default_rng(1)
    differences = random.integers(-1, 2, (100, 200))
    differences[:, 7] = random.random(100) < 0.3
    p = flip_test(differences, flips=1000)
    assert p[7] < 0.01
    assert np.delete(p, 7).min() > 0.02


def test_flip_test_of_no_differences() -> None:
    assert flip_test(np.zeros((10, 3)), flips=99).tolist() == [1, 1, 1]


def test_halves_are_even_and_stable() -> None:
    ids = [f"q{i}" for i in range(21)]
    first = halves(ids)
    assert first.sum() == 10
    assert halves(ids[::-1])[::-1].tolist() == first.tolist()


def test_a_path_is_measured_where_it_was_not_chosen() -> None:
    first = np.array([True, True, False, False])
    effects = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert chosen_elsewhere(effects, first).tolist() == [1, 1, 0, 0]
