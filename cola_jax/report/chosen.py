"""The best of many paths: how much of its effect is that it was chosen on the same questions.

The best of hundreds of paths looks better than it is, by luck alone. Two answers: how large the
largest effect would be if no path had any, and what a path does on questions that it was not chosen
on.
"""

from collections.abc import Sequence

import numpy as np

from cola_jax.question import split

FLIPS = 10_000  # draws of the signs
AT_ONCE = 1_000


def flip_test(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Returns p-values [C] corrected for C paths (Westfall and Young's maximum of statistics).

    If a path has no effect, the difference that it makes on a question has either sign as likely.
    The signs of whole questions are flipped, so that paths stay as dependent as they are. The
    statistic of a path is the sum of its differences over the root of the sum of their squares,
    which no flip changes; its p-value is how often the largest of all, of either sign, reaches it:
    two-sided.

    Args:
      differences: [n, C], each path minus the one that it is compared with, on n questions.
      flips: draws; the smallest p-value is 1 / (flips + 1).
    """
    differences = np.asarray(differences, np.float64)
    norm = np.sqrt((differences**2).sum(axis=0))
    scaled = differences / np.where(norm > 0, norm, 1)
    random = np.random.default_rng(seed)
    reached = np.ones(differences.shape[1])
    observed = np.abs(scaled.sum(axis=0))
    for first in range(0, flips, AT_ONCE):
        size = min(AT_ONCE, flips - first)
        signs = random.integers(0, 2, (size, len(differences))) * 2.0 - 1
        largest = np.sort(np.abs(signs @ scaled).max(axis=1))
        # rounding must not tell equal sums apart
        reached += size - np.searchsorted(largest, observed - 1e-9)
    return reached / (flips + 1)


def halves(ids: Sequence[str]) -> np.ndarray:
    """Assigns questions to two halves [n] of equal size by a hash of their ids."""
    first = np.zeros(len(ids), bool)
    first[split(ids, "")[: len(ids) // 2]] = True
    return first


def chosen_elsewhere(effects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns for each question [n] the path that is best on the half that it is not in.

    Args:
      effects: [n, C], of each path on each question; of equal means the first path is best.
      first: [n], whether a question is in the first half.
    """
    best = [int(effects[first == half].mean(axis=0).argmax()) for half in (False, True)]
    return np.where(first, best[0], best[1])
