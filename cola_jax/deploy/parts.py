"""Training and validation: a split of the questions that a search may see."""

import hashlib
from collections.abc import Sequence

import numpy as np

from cola_jax.errors import InputError


def ranked(ids: Sequence[str]) -> list[int]:
    """Orders questions by a hash of their ids."""
    return sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())


def training_and_validation(ids: Sequence[str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits questions by a hash of their ids; returns the indices of both parts, in order.

    Raises ValueError for a share of validation outside 0..1, or one that leaves a part empty.
    """
    count = round(len(ids) * share) if 0 < share < 1 else 0
    if not 0 < count < len(ids):
        raise InputError(
            f"a validation share of {share} of {len(ids)} questions leaves one part empty: give a "
            "share between 0 and 1, and more questions."
        )
    order = np.array(ranked(ids))
    return np.sort(order[count:]), np.sort(order[:count])
