"""The model's preference among targets: its covariates, and their coefficients."""

import numpy as np
import pytest
from scipy.optimize import minimize

from cola_jax.scoring.preference import COVARIATES, Preference, Targets
from experiments.calibration import draw_golds, drawn, searched


def test_covariates_are_those_of_the_targets_of_a_question():
    gaps = np.array([[1.0, 0.0, np.nan, 3.0], [2.0, 5.0, np.nan, np.nan], [4.0, 4.0, 4.0, np.nan]])
    lengths = np.array([[5.0, 5, 99, 8], [3, 7, 99, 99], [1, 2, 3, 0]])
    targets = Targets(np.zeros(gaps.shape, bool), gaps, lengths)
    score, length, rank, length_squared, rank_squared = np.moveaxis(targets.covariates, 2, 0)
    np.testing.assert_array_equal(score[0], [-1, 0, 0, -3])
    root = np.sqrt(0.5)
    np.testing.assert_allclose(length[0], [-root, -root, 0, 2 * root])
    np.testing.assert_allclose(length[1:, :3], [[-1, 1, 0], [-(1.5**0.5), 0, 1.5**0.5]])
    np.testing.assert_allclose(rank[0], [0, 1.5**0.5, 0, -(1.5**0.5)])
    np.testing.assert_allclose(rank[1:], [[1, -1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(rank_squared[0], [-2 * root, root, 0, root])
    assert not length_squared[1].any()
    assert not rank_squared[1].any()  # of two targets, squares are alike


def test_preference_is_found_again():
    random = np.random.default_rng(0)
    fitted = Preference.fit(drawn(2000, 1.0, random))
    for found, error, true in zip(*fitted, (1, 0, 0, 0, 0), strict=True):
        assert found == pytest.approx(true, abs=3 * error)
        assert error < 0.2
    truth = Preference((0.5, -0.8, 0.4, 0.3, -0.3), (0.0,) * 5)
    targets = searched(4000, random)
    fitted = Preference.fit(targets.relabel(draw_golds(truth.weights(targets), random)))
    for found, error, true in zip(*fitted, truth.coefficients, strict=True):
        assert found == pytest.approx(true, abs=3 * error)


def test_fit_is_the_maximum_of_the_penalised_likelihood():
    """Against a general optimiser of the likelihood with Jeffreys' prior; the ridge is little."""
    targets = drawn(40, 1.0, np.random.default_rng(2))
    x = targets.covariates

    def loss(coefficients: np.ndarray) -> float:
        weight = Preference(tuple(coefficients), ()).weights(targets)
        apart = x - np.einsum("nj,njk->nk", weight, x)[:, None]
        information = np.einsum("nj,nja,njb->ab", weight, apart, apart)
        return float(-np.log(weight[:, 0]).sum() - np.linalg.slogdet(information)[1] / 2)

    best = minimize(loss, np.zeros(len(COVARIATES)), method="BFGS")
    np.testing.assert_allclose(Preference.fit(targets).coefficients, best.x, atol=0.01)


def test_coefficients_are_finite_where_a_covariate_decides():
    targets = searched(300, np.random.default_rng(0))
    shortest = targets.relabel(targets.lengths.argmin(axis=1))
    fitted = Preference.fit(shortest)
    assert np.isfinite(fitted.coefficients).all()
    assert fitted.weights(shortest)[:, 0].mean() > 0.97
    alike = Targets(np.ones((5, 2), bool), np.zeros((5, 2)), np.ones((5, 2)))
    assert Preference.fit(alike) == Preference((0.0,) * 5, (np.inf,) * 5)
    one = Preference.fit(Targets(np.ones((1, 2), bool), np.array([[0.0, 2.0]]), np.ones((1, 2))))
    assert np.isfinite(one.coefficients).all()
    none = Targets(np.ones((0, 2), bool), np.zeros((0, 2)), np.ones((0, 2)))
    assert Preference.fit(none).coefficients == (0.0,) * 5


def test_scores_of_any_unit_predict_alike():
    targets = drawn(60, 1.0, np.random.default_rng(5))
    large = targets._replace(gaps=1000 * targets.gaps)
    np.testing.assert_allclose(
        Preference.fit(large).weights(large), Preference.fit(targets).weights(targets), atol=1e-3
    )
