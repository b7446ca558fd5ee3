"""Batches: prompts of like lengths together, and common prefixes."""

import itertools

import numpy as np
import pytest

from cola_jax.execute.batches import common_with_first, cut_batches, shared_tokens
from cola_jax.prompts import Prompts
from tests.execute import batches

SHARED = 37


@pytest.mark.parametrize(("parts", "largest"), [(1, 99), (2, 4), (4, 100), (11, 11)])
def test_cut_batches_puts_like_lengths_together(parts, largest):
    tokens = [30, 9, 500, 40, 31, 8, 33, 35, 62, 7, 64]
    cut = cut_batches(tokens, parts, largest)
    joined = list(itertools.chain(*(batch.tolist() for batch in cut)))
    assert [tokens[i] for i in joined] == sorted(tokens, reverse=True)
    assert sorted(joined) == list(range(11))
    assert len(cut) >= parts
    for batch in cut:
        assert len(batch) <= largest
        assert 8 * min(tokens[i] for i in batch) >= max(tokens[i] for i in batch)
    assert cut_batches([], parts, largest) == []


def test_cut_batches_bounds_the_tokens_of_long_prompts():
    """Of 2,048 on a CPU, but eight questions go together."""
    sizes = [[len(batch) for batch in cut_batches([t] * 40, 1, 32)] for t in (40, 100, 1000)]
    assert sizes == [[20, 20], [20, 20], [8] * 5]


def test_prefix_is_shared_where_it_pays():
    def shares(batch: Prompts, fresh: float = 0.25) -> list[int]:
        return shared_tokens(batch, len(batch.ids), fresh)

    assert common_with_first(batches.alike(SHARED)).tolist()[1:] == [SHARED] * 3
    assert shares(batches.alike(SHARED)) == [SHARED // 8 * 8] * 4
    assert shares(batches.alike(SHARED), fresh=1.0)[1:] == [0] * 3  # as many tokens either way
    assert shares(batches.alike(31)) == [0] * 4
    assert shares(batches.alike(SHARED, 1)) == [0]
    apart = Prompts.stack([batches.packed(seed) for seed in range(3)])
    assert not common_with_first(apart)[1:].any()
    early = batches.alike(SHARED)
    early = early.replace(read=np.asarray(early.read).copy())
    np.asarray(early.read)[0, 0] = 5  # read within the prefix
    assert common_with_first(early).tolist() == [5] * 4
    long = batches.alike(77)
    other = np.asarray(long.ids).copy()
    other[2, 74:] += 1  # after 74 tokens, where the first two begin with more of the same
    other[3, 40:] += 1
    assert shares(long.replace(ids=other), fresh=0.1) == [72, 72, 72, 40]
