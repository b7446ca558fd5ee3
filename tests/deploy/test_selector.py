"""The selector learns what features tell, and nothing from noise."""

import numpy as np

from cola_jax.deploy.selector import fit_selector


def test_selector_learns_which_path_is_right() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 50))
    features[:, 9] = 1.0  # constant
    kind = features[:, 3] > 0
    right = np.stack([kind, ~kind], axis=1)
    selector = fit_selector(features[:200], right[:200])
    chosen = selector.choose(features[200:])
    assert right[200:][np.arange(200), chosen].mean() > 0.85


def test_selector_of_noise_chooses_the_better_path() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(60, 200))
    right = random.random((60, 2)) < [0.8, 0.3]
    selector = fit_selector(features, right)
    assert (selector.choose(random.normal(size=(100, 200))) == 0).mean() > 0.9
