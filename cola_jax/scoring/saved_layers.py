"""`SavedLayers`: layers saved on right answers that are kept, beside those saved on wrong ones."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata, t

from cola_jax.scoring.statistics import ALPHA, mean

FEWEST = 10  # right answers, and wrong ones, below which no interval is given


class SavedLayers(NamedTuple):
    """Layers saved on right answers minus those saved on wrong ones, over different questions.

    A search for an answer that the model gives already only has to keep it, right or wrong, and a
    sure answer is kept on fewer layers. So the two are compared at equal confidence.
    """

    right: float  # mean over the questions answered right, without regard to confidence
    wrong: float
    n_right: int
    n_wrong: int
    difference: float  # at equal margins of the model's answer; NaN without both, or all alike
    interval: tuple[float, float]  # NaN below ten right or ten wrong questions
    p: float  # two-sided

    @classmethod
    def of(
        cls, saved: np.ndarray, right: np.ndarray, margin: np.ndarray, alpha: float = ALPHA
    ) -> "SavedLayers":
        """Regress layers saved [n] on whether the answer is right [n] and on ranks of its margin.

        The margin [n] is the best score minus the next one; its rank enters with its square.
        Errors are HC3, which allow the two groups different variances. The interval misses the
        difference with the probability `alpha`.
        """
        count = int(right.sum()), int((~right).sum())
        means = [mean(saved[group]) for group in (right, ~right)]
        kept = cls(means[0], means[1], *count, math.nan, (math.nan, math.nan), math.nan)
        if min(count) < 2 or np.ptp(saved) == 0:
            return kept
        rank = (rankdata(margin) - (len(margin) + 1) / 2) / len(margin)
        design = np.stack([right, np.ones(len(rank)), rank, rank**2], axis=1).astype(float)
        inverse = np.linalg.pinv(design.T @ design)
        beta = inverse @ design.T @ saved
        kept = kept._replace(difference=float(beta[0]))
        if min(count) < FEWEST:
            return kept
        leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
        residual = (saved - design @ beta) / np.maximum(1 - leverage, 1e-9)
        error = float(np.linalg.norm(inverse[0] @ (design * residual[:, None]).T))
        degrees = len(saved) - design.shape[1]
        reach = float(t.ppf(1 - alpha / 2, degrees)) * error
        p = float(2 * t.sf(abs(beta[0]) / error, degrees)) if error > 0 else 1.0
        low = float(beta[0]) - reach
        high = float(beta[0]) + reach
        return kept._replace(interval=(low, high), p=p)
