"""Mutations keep the length budget and reach every kind of change."""

import numpy as np
import pytest
from cola_jax.deploy.mutation import mutate, repeat, restore, skip
from cola_jax.deploy.settings import Lengths

IDENTITY = tuple(range(8))


@pytest.mark.parametrize("lengths", [Lengths(4, 8), Lengths(7, 7), Lengths(1, 2), Lengths(12, 16)])
def test_mutations_keep_the_length_budget(lengths: Lengths) -> None:
    random, path = np.random.default_rng(0), IDENTITY
    for _ in range(300):
        path = mutate(path, 8, lengths, random)
        assert lengths.shortest <= len(path) <= lengths.longest
        assert set(path) <= set(IDENTITY)


def test_single_mutations() -> None:
    random = np.random.default_rng(0)
    assert all(len(skip((3,), 8, random)) == 1 for _ in range(5))
    for _ in range(50):
        shorter, longer = skip(IDENTITY, 8, random), repeat(IDENTITY, 8, random)
        assert 4 <= len(shorter) < 8
        assert list(shorter) == sorted(set(shorter))
        assert 8 < len(longer) <= 12
        assert set(longer) == set(IDENTITY)
    assert restore((0, 2, 3, 3), 4, random) == (0, 1, 2, 3, 3)
    assert restore((1, 2), 3, random) == (0, 1, 2)
    assert restore((0, 1), 3, random) == (0, 1, 2)
    assert restore(IDENTITY, 8, random) == IDENTITY
