"""Tiles: how steps are cut, packed, and divided into calls."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.plan import NONE, Columns, Cost, Layout, Step, TileShape, pack_tiles

PADDING = Columns(0, 0, 99, 0)
SHAPES = (TileShape(4, 8), TileShape(3, 16), TileShape(2, 24))


def layout_of(shapes=SHAPES, questions=3):
    shape = np.arange(questions) % len(shapes)
    return Layout(shapes, shape, np.array([shapes[i].tokens for i in shape]))


def step(layer, shapes, first=1, layout=None):
    """A step of rows that need these shapes, and can be told apart in every column."""
    numbers = np.arange(first, first + len(shapes), dtype=np.int32)
    ends = (layout or layout_of()).tile_ends(shapes)
    starts = [0, *ends[:-1]]
    columns = Columns(layer, numbers, numbers + 10, numbers + 20)
    return Step(columns, numbers + 30, [shapes[start] for start in starts], ends)


def test_pack_fills_tiles_in_order():
    layout = layout_of((TileShape(2, 8),))
    numbers = itertools.count(1, 3)
    steps = [step(layer, [0] * n, next(numbers), layout) for layer, n in ((3, 3), (0, 1), (3, 2))]
    tiles = pack_tiles(steps, layout, PADDING)
    assert tiles.layer.tolist() == [3, 3, 0, 3]
    layer, source, target, question, block, prompt_block = tiles.table.swapaxes(0, 1)
    assert layer.tolist() == [[3, 3], [3, 3], [0, 0], [3, 3]]
    assert source.tolist() == [[1, 2], [3, 0], [4, 0], [7, 8]]
    assert target.tolist() == [[11, 12], [13, 99], [14, 99], [17, 18]]
    assert question.tolist() == [[21, 22], [23, 0], [24, 0], [27, 28]]
    assert tiles.state.tolist() == [[31, 32], [33, NONE], [34, NONE], [37, 38]]
    assert not block.any()
    assert not prompt_block.any()
    assert tiles.table.dtype == np.int32


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 2), min_size=1)), max_size=6))
def test_every_row_is_in_one_tile_that_it_fits(steps):
    """Of rows sorted by length, in tiles of the shape of their longest, filled but for the last."""
    layout, number, made, rows = layout_of(), itertools.count(), [], {}
    for layer, shapes in steps:
        shapes = sorted(shapes, reverse=True)
        first = 100 * next(number)
        made.append(step(layer, shapes, first, layout))
        rows |= {first + 30 + i: (layer, shape) for i, shape in enumerate(shapes)}
        sizes = np.diff([0, *layout.tile_ends(shapes)])
        full = [SHAPES[shape].rows for shape in made[-1].shapes]
        assert sizes[:-1].tolist() == full[:-1]
        assert 0 < sizes[-1] <= full[-1]
    tiles = pack_tiles(made, layout, PADDING)
    assert tiles.table.shape[1:] == (len(Columns._fields), 4)
    assert sorted(tiles.state[tiles.state != NONE].tolist()) == sorted(rows)
    for table, states, shape in zip(tiles.table, tiles.state, tiles.shape, strict=True):
        some = states != NONE
        assert not some[SHAPES[shape].rows :].any()
        for place in np.flatnonzero(some):
            layer, needed = rows[int(states[place])]
            assert needed <= shape
            own = states[place] - 30
            assert table[:4, place].tolist() == [layer, own, own + 10, own + 20]
        assert (table[2, ~some] == 99).all()  # padding writes to the padding slot
    runs = [tile for *_, start, end in tiles.runs(same_layer=True) for tile in range(start, end)]
    assert runs == list(range(len(tiles.state)))


def test_runs_group_neighbours_of_one_shape_and_layer():
    steps = [step(3, [2, 2, 2, 0, 0]), step(3, [0]), step(1, [0] * 5), step(3, [1])]
    tiles = pack_tiles(steps, layout_of(), PADDING)
    assert tiles.shape.tolist() == [2, 2, 0, 0, 0, 0, 1]
    by_layer = [(3, 2, 0, 2), (3, 0, 2, 4), (1, 0, 4, 6), (3, 1, 6, 7)]
    assert list(tiles.runs(same_layer=True)) == by_layer
    assert [run[1:] for run in tiles.runs(same_layer=False)] == [(2, 0, 2), (0, 2, 6), (1, 6, 7)]


@pytest.mark.parametrize("size", [1, 3, 9])
def test_parts_cut_tiles(size):
    tiles = pack_tiles([step(layer, [0] * 7) for layer in (1, 2, 1)], layout_of(), PADDING)
    parts = list(tiles.parts(size))
    assert all(len(part.table) == size for part in parts[:-1])
    for whole, *columns in zip(tiles, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(columns), whole)
    assert list(pack_tiles([], layout_of(), PADDING).parts(size)) == []


def test_blocks_are_those_of_states():
    tiles = pack_tiles([step(2, [0] * 5)], layout_of(), PADDING)
    block = np.full(40, 7, np.int32)
    block[31:36], block[NONE] = range(50, 55), 77
    table = tiles.with_columns(
        block=block[tiles.state], prompt_block=(block + 1)[tiles.state]
    ).table
    assert table[:, 4].tolist() == [[50, 51, 52, 53], [54, 77, 77, 77]]
    np.testing.assert_array_equal(table[:, 5], table[:, 4] + 1)
    np.testing.assert_array_equal(table[:, :4], tiles.table[:, :4])
    np.testing.assert_array_equal(
        tiles.with_columns(block=tiles.target).table[:, 4], tiles.table[:, 2]
    )
    assert not tiles.table[:, 4].any()  # a copy


def test_costs_add_up():
    total = Cost(useful=5, unique=3, last=1) + Cost(useful=2, tokens=4, hits=6, evicted=7)
    assert total == Cost(useful=7, unique=3, last=1, tokens=4, hits=6, evicted=7)
