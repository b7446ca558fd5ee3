"""Tiles: how steps are packed, cut into calls, and grouped by layer."""

import numpy as np
import pytest

from cola_jax.execute.plan import NONE, Cost, Step, Tiles, pack_tiles

PADDING = {"source": 0, "target": 99, "question": 0, "state": NONE}


def step(layer, numbers):
    """A step whose rows can be told apart in every field."""
    numbers = np.array(numbers, np.int32)
    return Step(layer, numbers, numbers + 10, numbers + 20, state=numbers + 30)


def test_pack_fills_tiles_in_order():
    tiles = pack_tiles([step(3, [1, 2, 3]), step(0, [4]), step(3, [5, 6])], 2, PADDING)
    assert tiles.layer.tolist() == [3, 3, 0, 3]
    assert tiles.source.tolist() == [[1, 2], [3, 0], [4, 0], [5, 6]]
    assert tiles.target.tolist() == [[11, 12], [13, 99], [14, 99], [15, 16]]
    assert tiles.question.tolist() == [[21, 22], [23, 0], [24, 0], [25, 26]]
    assert tiles.state.tolist() == [[31, 32], [33, NONE], [34, NONE], [35, 36]]
    assert tiles.block is None
    assert tiles.prompt_block is None
    assert all(column.dtype == np.int32 for column in tiles if column is not None)


def test_pack_of_no_steps_has_no_tiles():
    tiles = pack_tiles([], 3, PADDING)
    assert tiles.layer.shape == (0,)
    assert tiles.source.shape == tiles.state.shape == (0, 3)


def test_runs_group_neighbours_of_one_layer():
    tiles = pack_tiles(
        [step(3, range(5)), step(3, [5]), step(1, range(4)), step(3, [6])], 2, PADDING
    )
    assert list(tiles.runs()) == [(3, 0, 4), (1, 4, 6), (3, 6, 7)]
    assert list(pack_tiles([], 2, PADDING).runs()) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_calls_cut_tiles_and_pad_them(size):
    tiles = pack_tiles([step(layer, range(2 * layer)) for layer in (1, 2, 1)], 2, PADDING)
    calls = list(tiles.calls(size))
    assert [len(call.layer) for call in calls[:-1]] == [size] * (len(calls) - 1)
    for name in ("layer", "source", "target", "question"):
        joined = np.concatenate([getattr(call, name) for call in calls])
        np.testing.assert_array_equal(joined, getattr(tiles, name))
    for call in calls:
        padded = call.padded(size)
        assert padded.layer.shape == (size,)
        assert padded.source.shape == (size, 2)
        assert padded.state is None  # state numbers stay on the host
        assert padded.block is None
        np.testing.assert_array_equal(padded.target[: len(call.layer)], call.target)
        assert not padded.target[len(call.layer) :].any()


def test_calls_keep_blocks():
    blocks = np.arange(6, dtype=np.int32).reshape(3, 2)
    tiles = Tiles(np.zeros(3, np.int32), blocks, blocks, blocks, blocks + 6, blocks + 12)
    first, second = tiles.calls(2)
    np.testing.assert_array_equal(np.concatenate([first.block, second.block]), blocks + 6)
    np.testing.assert_array_equal(second.prompt_block, blocks[2:] + 12)


def test_costs_add_up():
    total = Cost(useful=5, unique=3, last=1) + Cost(useful=2, rows=4, hits=6, evicted=7)
    assert total == Cost(useful=7, unique=3, last=1, rows=4, hits=6, evicted=7)
