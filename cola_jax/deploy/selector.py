"""A selector: which path of a menu will be right, from the hidden state of the prompt."""

from typing import NamedTuple

import numpy as np

ALPHAS = tuple(10.0**power for power in range(-1, 6))


class Selector(NamedTuple):
    """A linear regression from features [D] to whether each of k paths is right."""

    mean: np.ndarray  # [D] of the training features
    scale: np.ndarray  # [D], their standard deviation
    weights: np.ndarray  # [D, k]
    bias: np.ndarray  # [k]

    def choose(self, features: np.ndarray) -> np.ndarray:
        """Returns the path [n] that is expected to be right, for features [n, D]."""
        return (((features - self.mean) / self.scale) @ self.weights + self.bias).argmax(axis=1)


def fit_selector(features: np.ndarray, right: np.ndarray) -> Selector:
    """Fits ridge regressions with the penalty of the least error when a question is left out.

    Args:
      features: [n, D].
      right: [n, k], whether each path was right.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, bias = (features - mean) / scale, right.mean(axis=0)
    y = right - bias
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y

    def error(alpha: float) -> float:
        shrink = s**2 / (s**2 + alpha)
        residual = y - u @ (shrink[:, None] * projected)
        # the residual of a question that the fit has not seen; the mean is a parameter too
        leverage = (u**2) @ shrink + 1 / len(x)
        return float(((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).mean())

    alpha = min(ALPHAS, key=error)
    weights = vt.T @ ((s / (s**2 + alpha))[:, None] * projected)
    return Selector(mean, scale, weights, bias)
