"""Batches of prompts, and tiles: how steps are cut, packed, and divided into calls."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.layout import Layout, TileShape
from cola_jax.execute.plan import (
    StepRows,
    TileColumns,
    common_with_first,
    cut_batches,
    pack_tiles,
    shared_tokens,
)
from cola_jax.prompts import Prompts
from tests.execute import batches

PADDING = TileColumns(0, 0, 99, 0, block=98)
SHAPES = (TileShape(32, 4, 24), TileShape(16, 2, 24))
LAYOUT = Layout(SHAPES, 2, np.array([8, 16, 24]), np.ones(3, int))


def step(layer, sizes, shapes, first=1):
    """A step of tiles of so many rows, which can be told apart in every column."""
    numbers = np.arange(first, first + sum(sizes), dtype=np.int32)
    columns = TileColumns(layer, numbers, numbers + 10, numbers + 20, block=numbers + 30)
    return StepRows(columns, np.cumsum(sizes).tolist(), shapes)


TILE = st.tuples(st.integers(1, 4), st.integers(0, 1))


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(TILE, min_size=1)), max_size=6))
def test_every_row_is_in_its_tile(steps):
    made, rows, shapes = [], {}, []
    for number, (layer, tiles) in enumerate(steps):
        sizes = [rows for rows, _ in tiles]
        made.append(step(layer, sizes, [shape for _, shape in tiles], 100 * number))
        of_tile = np.repeat(np.arange(len(sizes)) + len(shapes), sizes).tolist()
        rows |= {100 * number + i: (layer, tile) for i, tile in enumerate(of_tile)}
        shapes += [shape for _, shape in tiles]
    tiles = pack_tiles(made, LAYOUT, PADDING)
    assert tiles.table.shape[1:] == (len(TileColumns._fields), 4)
    assert tiles.shape.tolist() == shapes
    real = tiles.table[:, 2] != 99  # padding writes to the padding slot
    assert sorted(tiles.table[:, 1][real].tolist()) == sorted(rows)
    for number, (table, inside) in enumerate(zip(tiles.table, real, strict=True)):
        columns = TileColumns(*table)
        assert (columns.block[~inside] == PADDING.block).all()
        assert (columns.step == columns.step[0]).all()  # padding runs the layer of its tile
        for layer, row, target, question, block in zip(
            *(x[inside].tolist() for x in (*columns[:4], columns.block)), strict=True
        ):
            assert rows[row] == (layer, number)
            assert (target, question, block) == (row + 10, row + 20, row + 30)
    runs = [tile for *_, start, end in tiles.runs(tiles.step) for tile in range(start, end)]
    assert runs == list(range(len(tiles.table)))


def test_runs_group_neighbours_of_one_shape_and_layer():
    steps = [
        step(3, [2, 2, 2], [1, 1, 0]),
        step(3, [1], [0]),
        step(1, [4, 1], [0, 0]),
        step(3, [1], [1]),
    ]
    tiles = pack_tiles(steps, LAYOUT, PADDING)
    assert tiles.shape.tolist() == [1, 1, 0, 0, 0, 0, 1]
    by_layer = [(1, 0, 2), (0, 2, 4), (0, 4, 6), (1, 6, 7)]
    assert list(tiles.runs(tiles.step)) == by_layer
    together = tiles.runs(np.zeros_like(tiles.step))
    assert list(together) == [(1, 0, 2), (0, 2, 6), (1, 6, 7)]


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
