"""The shapes of tiles, and the rows that fill them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.layout import (
    Layout,
    TileShape,
    choose_tokens,
    fullest,
    fullest_tiles,
    layout_of,
)
from cola_jax.execute.memory import ACCELERATOR, CPU
from tests.execute import batches


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_fullest_finds_the_best_sum_with_the_longest_row(lengths):
    lengths = sorted(lengths)
    *others, longest = lengths
    sums = (
        longest + sum(part)
        for size in range(len(others) + 1)
        for part in itertools.combinations(others, size)
    )
    places = fullest(lengths, 30, len(lengths))
    assert places[0] == len(lengths) - 1
    assert places == sorted(set(places), reverse=True)
    assert sum(lengths[place] for place in places) == max(x for x in sums if x <= 30)


@given(st.lists(st.integers(1, 96), max_size=200), st.integers(1, 12))
def test_fullest_tiles_hold_every_row_once(lengths, rows):
    tiles = fullest_tiles(lengths, 96, rows)
    assert sorted(itertools.chain(*tiles)) == list(range(len(lengths)))
    for tile in tiles:
        assert 0 < len(tile) <= rows
        assert sum(lengths[i] for i in tile) <= 96


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(1, 8)), max_size=60))
def test_last_tiles_hold_every_row_once(rows):
    last = TileShape(64, 4, 32, reads=16, most_reads=8)
    layout = Layout((TileShape(64, 4, 32), last), 1, np.array([32]), np.array([8]))
    lengths, reads = ([row[i] for row in rows] for i in (0, 1))
    tiles = layout.fill_last(lengths, reads)
    assert sorted(itertools.chain(*tiles)) == list(range(len(rows)))
    for tile in tiles:
        tokens, positions = (sum(x[i] for i in tile) for x in (lengths, reads))
        assert layout.smallest(tokens, len(tile), positions) == 1


@pytest.mark.parametrize("limits", [CPU, ACCELERATOR])
@pytest.mark.parametrize("lengths", [(3,), (5, 12, 40), (100,) * 9, (700, 40, 5), (5000, 9)])
def test_layouts_hold_every_prompt_in_whole_pages(limits, lengths):
    prompts = batches.plain(*lengths)
    reads = [min(n, 20) for n in lengths]
    layout = layout_of(prompts, limits, reads)
    assert layout.tokens >= max(layout.taken)
    assert layout.tokens % limits.page == 0
    assert (layout.taken % limits.page == 0).all()
    assert layout.most_reads >= max(reads)
    for taken, read in zip(layout.taken.tolist(), reads, strict=True):
        assert layout.smallest(taken, 1) < layout.inner
        assert layout.smallest(taken, 1, read) >= layout.inner
    assert len(layout.shapes) <= 6
    whole = [shape.tokens % limits.unit == 0 for shape in layout.shapes]
    assert all(whole)


def test_tiles_stretch_to_hold_whole_rows():
    """Two prompts of 150 tokens; of those of 48, six fill a tile of the usual size."""
    assert choose_tokens(np.full(8, 150), CPU) == 304
    assert choose_tokens(np.full(8, 48), CPU) == CPU.tile_tokens == 288
    assert choose_tokens(np.array([1000, 20]), CPU) >= 1000
