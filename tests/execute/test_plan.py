"""Batches of prompts, and tiles: how steps are cut, packed, and divided into calls."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.plan import (
    Layout,
    Step,
    TileColumns,
    TileShape,
    common_with_first,
    cut_batches,
    pack_tiles,
    shared_tokens,
)
from cola_jax.prompts import Prompts
from tests.execute import batches

PADDING = TileColumns(0, 0, 99, 0, 98)
SHAPES = (TileShape(4, 8), TileShape(3, 16), TileShape(2, 24))
LAYOUT = Layout(SHAPES, np.arange(3), np.array([shape.tokens for shape in SHAPES]))


def step(layer, shapes, first=1):
    """A step of rows that need these shapes, and can be told apart in every column."""
    numbers = np.arange(first, first + len(shapes), dtype=np.int32)
    columns = TileColumns(layer, numbers, numbers + 10, numbers + 20, numbers + 30)
    return Step(columns, shapes, LAYOUT.tile_ends(shapes))


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 2), min_size=1)), max_size=6))
def test_every_row_is_in_one_tile_that_it_fits(steps):
    """Of rows sorted by length, in tiles of the shape of their longest, filled but for the last."""
    made, rows = [], {}
    for number, (layer, shapes) in enumerate(steps):
        shapes = sorted(shapes, reverse=True)
        made.append(step(layer, shapes, 100 * number))
        rows |= {100 * number + i: (layer, shape) for i, shape in enumerate(shapes)}
        ends = made[-1].ends
        full = [SHAPES[shapes[start]].rows for start in [0, *ends[:-1]]]
        sizes = np.diff([0, *ends])
        assert sizes[:-1].tolist() == full[:-1]
        assert 0 < sizes[-1] <= full[-1]
    tiles = pack_tiles(made, LAYOUT, PADDING)
    assert tiles.table.shape[1:] == (len(TileColumns._fields), 4)
    real = tiles.table[:, 2] != 99  # padding writes to the padding slot
    assert sorted(tiles.table[:, 1][real].tolist()) == sorted(rows)
    for table, inside, shape in zip(tiles.table, real, tiles.shape, strict=True):
        assert not inside[SHAPES[shape].rows :].any()
        assert (table[4, ~inside] == PADDING.block).all()
        assert (table[0] == table[0, 0]).all()  # padding runs the layer of its tile
        for layer, number, target, question, block in table[:5, inside].T.tolist():
            assert rows[number][0] == layer
            assert rows[number][1] <= shape
            assert (target, question, block) == (number + 10, number + 20, number + 30)
    runs = [tile for *_, start, end in tiles.runs(tiles.layer) for tile in range(start, end)]
    assert runs == list(range(len(tiles.table)))


def test_runs_group_neighbours_of_one_shape_and_layer():
    steps = [step(3, [2, 2, 2, 0, 0]), step(3, [0]), step(1, [0] * 5), step(3, [1])]
    tiles = pack_tiles(steps, LAYOUT, PADDING)
    assert tiles.shape.tolist() == [2, 2, 0, 0, 0, 0, 1]
    by_layer = [(3, 2, 0, 2), (3, 0, 2, 4), (1, 0, 4, 6), (3, 1, 6, 7)]
    assert list(tiles.runs(tiles.layer)) == by_layer
    together = tiles.runs(np.zeros_like(tiles.layer))
    assert [run[1:] for run in together] == [
        (2, 0, 2),
        (0, 2, 6),
        (1, 6, 7),
    ]


@pytest.mark.parametrize(("parts", "largest"), [(1, 99), (2, 4), (4, 100), (11, 11)])
def test_cut_batches_puts_like_lengths_together(parts, largest):
    tokens = [30, 9, 500, 40, 31, 8, 33, 35, 62, 7, 64]
    cut = cut_batches(tokens, parts, largest, 2048)
    joined = list(itertools.chain(*(batch.tolist() for batch in cut)))
    assert [tokens[i] for i in joined] == sorted(tokens, reverse=True)
    assert sorted(joined) == list(range(11))
    assert len(cut) >= parts
    for batch in cut:
        assert len(batch) <= largest
        assert 8 * min(tokens[i] for i in batch) >= max(tokens[i] for i in batch)
    assert cut_batches([], parts, largest, 2048) == []


def test_cut_batches_bounds_the_tokens_of_long_prompts():
    """But eight questions go together."""
    sizes = [[len(batch) for batch in cut_batches([t] * 40, 1, 32, 2048)] for t in (40, 100, 1000)]
    assert sizes == [[20, 20], [20, 20], [8] * 5]


def test_prefix_is_shared_where_it_pays():
    def shares(batch: Prompts, fresh: float = 0.25) -> list[int]:
        return shared_tokens(batch, len(batch.ids), fresh, 8)

    assert common_with_first(batches.alike(37)).tolist()[1:] == [37] * 3
    assert shares(batches.alike(37)) == [37 // 8 * 8] * 4
    assert shares(batches.alike(37), fresh=1.0)[1:] == [0] * 3  # as many tokens either way
    assert shares(batches.alike(31)) == [0] * 4
    assert shares(batches.alike(37, 1)) == [0]
    apart = Prompts.stack([batches.packed(seed) for seed in range(3)])
    assert not common_with_first(apart)[1:].any()
    early = batches.alike(37)
    early = early.replace(read=np.asarray(early.read).copy())
    np.asarray(early.read)[0, 0] = 5  # read within the prefix
    assert common_with_first(early).tolist() == [5] * 4
    long = batches.alike(77)
    other = np.asarray(long.ids).copy()
    other[2, 74:] += 1  # after 74 tokens, where the first two begin with more of the same
    other[3, 40:] += 1
    assert shares(long.replace(ids=other), fresh=0.1) == [72, 72, 72, 40]
