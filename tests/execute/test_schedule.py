"""The order of tiles: states of a wave, and rows of a decode step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.plan import Layout, TileShape
from cola_jax.execute.schedule import decode_tiles, most_paths
from cola_jax.execute.trie import Trie
from cola_jax.path import STOP, pad_path, random_paths

SHAPES = (TileShape(5, 8), TileShape(3, 16), TileShape(2, 32))


def one_shape(rows, questions=8):
    return Layout.of_shape(TileShape(rows, 8), questions)


def test_schedule_fills_tiles_of_a_layer_first():
    """Paths that meet in a layer run it together, whatever their depth."""
    trie = Trie(100, one_shape(4), 100)
    paths = np.array([[q, *pad_path((*([q] * q), 5, 4), 8)] for q in range(4)])
    (chunk,), cost = trie.plan(paths)
    (layer_5,) = np.flatnonzero(chunk.tiles.layer == 5)
    assert (chunk.tiles.table[layer_5, 2] != trie.slots).all()
    assert cost.unique == 3 * 4 // 2 + 4


def test_schedule_packs_last_layers_by_layer():
    """So their weights are read once, whatever the order of the paths."""
    trie = Trie(100, one_shape(4), 100)
    paths = np.array([[q, *pad_path((0, q % 2), 4)] for q in range(8)])
    (chunk,), _ = trie.plan(paths)
    assert chunk.last.layer.tolist() == [0, 1]
    assert chunk.paths.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_schedule_runs_prompts_of_like_lengths_together():
    """Short prompts in tiles of short rows, though they meet in the same layer."""
    lengths = np.array([30, 7, 25, 3, 20, 8, 6, 5])
    shape = np.searchsorted([shape.tokens for shape in SHAPES], lengths)
    trie = Trie(100, Layout(SHAPES, shape, lengths), 100)
    paths = np.array([[q, *pad_path((0, 1, 2), 4)] for q in range(8)])
    (chunk,), cost = trie.plan(paths)
    for tiles in (chunk.tiles, chunk.last):
        count = 2 if tiles is chunk.tiles else 1
        assert sorted(tiles.shape.tolist()) == sorted([2, 2, 0] * count)
    assert cost.token_rows == 3 * (2 * 2 * 32 + 5 * 8)


@pytest.mark.parametrize(("slots", "rows"), [(2, 1), (2, 8), (9, 4), (40, 4), (100, 16)])
def test_most_paths_leaves_slots_to_go_on(slots, rows):
    assert 1 <= most_paths(slots, rows) < slots
    if slots > 2 * rows:
        assert most_paths(slots, rows) == slots - rows


# Decode steps


def tables(paths, positions):
    """Decode slots on these paths and one for padding, with a block for each position."""
    slots = len(paths)
    path = np.full((slots + 1, positions), STOP, np.int32)
    for slot, layers in enumerate(paths):
        path[slot, : len(layers)] = layers
    padding = slots * positions  # the block after the last, of both kinds
    own = np.where(path == STOP, padding, np.arange(path.size).reshape(path.shape))
    prompt = np.where(path == STOP, padding, padding - 1 - own)
    return path, own.astype(np.int32), prompt.astype(np.int32)


def check_step(paths, active, rows):
    """Runs the tiles of a decode step on lists of layers; returns the tiles."""
    path, own, prompt = tables(paths, 8)
    tiles = decode_tiles(path, np.array(active, np.int32), own, prompt, one_shape(rows))
    done = {slot: [] for slot in active}
    for table in tiles.table:
        seen = set()
        for layer, source, target, question, block, prompt_block in table.T.tolist():
            assert source == target == question  # a row's state, token and view
            if source == len(paths):
                assert (block, prompt_block) == (own[-1, 0], prompt[-1, 0])
                continue
            assert source not in seen  # a row runs one layer at a time
            seen.add(source)
            position = len(done[source])
            assert (block, prompt_block) == (own[source, position], prompt[source, position])
            done[source].append(layer)
    assert done == {slot: list(paths[slot]) for slot in active}
    return tiles


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=9),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_decode_tiles_run_every_path_in_order(paths, rows, random):
    """Each active row runs its layers in order, on its own blocks; the others rest."""
    active = random.sample(range(len(paths)), random.randint(1, len(paths)))
    check_step(paths, active, rows)


def test_decode_tiles_visit_layers_seldom():
    """Rows wait for those with a repeat, so that they run what follows together."""
    plain, repeat = (0, 1, 2, 3, 4), (0, 1, 1, 2, 3, 4)
    tiles = check_step([plain, repeat, plain, repeat], [0, 1, 2, 3], 4)
    assert tiles.layer.tolist() == [0, 1, 1, 2, 3, 4]
    paths = random_paths(6, 32, seed=0)
    paths = [path for path in paths if len(path) <= 8]
    merged = check_step(paths, list(range(len(paths))), 64)
    assert len(merged.layer) < sum(map(len, paths)) / 3
