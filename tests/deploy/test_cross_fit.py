"""The rule of a menu is chosen by questions that it was not fitted to."""

import numpy as np
import pytest

from cola_jax.deploy.cross_fit import SOME, Known, cross_fit, fit_rules, folds_of, right_by_rule
from cola_jax.deploy.rules import CONFIDENCE, Signals

SEEDS, PATHS, WIDTH = 30, 5, 64


def draw(seed: int, n: int, *, informative: bool = False) -> Known:
    """Draws paths that are right on half of the questions, and features that may tell on which."""
    random = np.random.default_rng(seed)
    right, states = random.random((n, PATHS)) < 0.5, random.normal(size=(n, WIDTH))
    if informative:
        right[:, 0] = states[:, 3] > 0
        right[:, 1] = ~right[:, 0]
    values = [random.normal(size=(n, PATHS)) for _ in CONFIDENCE]
    return Known(right, Signals(right.astype(object), *values), states)


def gain_and_rule(right: dict[str, np.ndarray], known: Known) -> tuple[float, str]:
    """Returns what the selector gains over a path drawn blindly, and the best rule."""
    shares = {name: values.mean() for name, values in right.items() if name != SOME}
    return shares["selector"] - known.right.mean(), max(shares, key=lambda name: shares[name])


@pytest.mark.parametrize("n", [100, 300])
def test_cross_fitted_selector_gains_nothing_from_noise(n: int) -> None:
    fitted, crossed = [], []
    for seed in range(SEEDS):
        known, folds = draw(seed, n), np.arange(n) % 5
        fitted.append(gain_and_rule(right_by_rule(fit_rules(known), known), known))
        crossed.append(gain_and_rule(cross_fit(known, folds, [range(PATHS)] * 5), known))
    before, after = (np.mean([gain for gain, _ in each]) for each in (fitted, crossed))
    assert before > 0.07  # what makes cross-fitting needed
    assert abs(after) < 0.02
    before, after = (sum(rule == "selector" for _, rule in each) for each in (fitted, crossed))
    assert after <= SEEDS // 6
    assert after < before


def test_selector_of_informative_features_is_chosen() -> None:
    for seed in range(5):
        known = draw(seed, 300, informative=True)
        gain, rule = gain_and_rule(cross_fit(known, np.arange(300) % 5, [range(PATHS)] * 5), known)
        assert rule == "selector"
        assert gain > 0.2


def test_each_fold_has_its_own_menu() -> None:
    known = draw(0, 20)
    right = cross_fit(known, np.arange(20) % 5, [[0, 1], [0, 2], [0, 3], [0, 4], [0]])
    assert right[SOME].tolist() == [known.right[i, [0, (i + 1) % 5]].any() for i in range(20)]
    assert right["single"][4::5].tolist() == known.right[4::5, 0].tolist()


def test_folds_are_of_equal_size_in_any_order() -> None:
    ids = [f"question {i}" for i in range(13)]
    folds = folds_of(ids)
    assert sorted(np.bincount(folds)) == [2, 2, 3, 3, 3]
    assert folds_of(ids[::-1]).tolist() == folds[::-1].tolist()
