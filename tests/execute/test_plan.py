"""Tiles: how steps are cut, packed, and divided into calls."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.plan import Columns, Layout, Step, TileShape, pack_tiles

PADDING = Columns(0, 0, 99, 0, 98)
SHAPES = (TileShape(4, 8), TileShape(3, 16), TileShape(2, 24))
LAYOUT = Layout(SHAPES, np.arange(3), np.array([shape.tokens for shape in SHAPES]))


def step(layer, shapes, first=1, layout=LAYOUT):
    """A step of rows that need these shapes, and can be told apart in every column."""
    numbers = np.arange(first, first + len(shapes), dtype=np.int32)
    columns = Columns(layer, numbers, numbers + 10, numbers + 20, numbers + 30)
    return Step(columns, shapes, layout.tile_ends(shapes))


def test_pack_fills_tiles_in_order():
    layout = Layout.of_shape(TileShape(2, 8))
    numbers = itertools.count(1, 3)
    steps = [step(layer, [0] * n, next(numbers), layout) for layer, n in ((3, 3), (0, 1), (3, 2))]
    tiles = pack_tiles(steps, layout, PADDING)
    assert tiles.layer.tolist() == [3, 3, 0, 3]
    layer, source, target, question, block, prompt_block = tiles.table.swapaxes(0, 1)
    assert layer.tolist() == [[3, 3], [3, 3], [0, 0], [3, 3]]
    assert source.tolist() == [[1, 2], [3, 0], [4, 0], [7, 8]]
    assert target.tolist() == [[11, 12], [13, 99], [14, 99], [17, 18]]
    assert question.tolist() == [[21, 22], [23, 0], [24, 0], [27, 28]]
    assert block.tolist() == [[31, 32], [33, 98], [34, 98], [37, 38]]
    assert not prompt_block.any()
    assert tiles.table.dtype == np.int32


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
    assert tiles.table.shape[1:] == (len(Columns._fields), 4)
    real = tiles.table[:, 2] != 99  # padding writes to the padding slot
    assert sorted(tiles.table[:, 1][real].tolist()) == sorted(rows)
    for table, inside, shape in zip(tiles.table, real, tiles.shape, strict=True):
        assert not inside[SHAPES[shape].rows :].any()
        for layer, number, target, question in table[:4, inside].T.tolist():
            assert rows[number][0] == layer
            assert rows[number][1] <= shape
            assert (target, question) == (number + 10, number + 20)
    runs = [tile for *_, start, end in tiles.runs(same_layer=True) for tile in range(start, end)]
    assert runs == list(range(len(tiles.table)))


def test_runs_group_neighbours_of_one_shape_and_layer():
    steps = [step(3, [2, 2, 2, 0, 0]), step(3, [0]), step(1, [0] * 5), step(3, [1])]
    tiles = pack_tiles(steps, LAYOUT, PADDING)
    assert tiles.shape.tolist() == [2, 2, 0, 0, 0, 0, 1]
    by_layer = [(3, 2, 0, 2), (3, 0, 2, 4), (1, 0, 4, 6), (3, 1, 6, 7)]
    assert list(tiles.runs(same_layer=True)) == by_layer
    assert [run[1:] for run in tiles.runs(same_layer=False)] == [(2, 0, 2), (0, 2, 6), (1, 6, 7)]


@pytest.mark.parametrize("size", [1, 3, 9])
def test_parts_cut_tiles(size):
    tiles = pack_tiles([step(layer, [0] * 7) for layer in (1, 2, 1)], LAYOUT, PADDING)
    parts = list(tiles.parts(size))
    assert all(len(part.table) == size for part in parts[:-1])
    for whole, *columns in zip(tiles, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(columns), whole)
    assert list(pack_tiles([], LAYOUT, PADDING).parts(size)) == []
