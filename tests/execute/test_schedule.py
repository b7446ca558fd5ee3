"""The plans of waves and of decode steps, carried out on prefixes in place of states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_jax.execute.plan import NONE, Cost, Layout, TileShape
from cola_jax.execute.schedule import decode_tiles, paths_at_once, token_rows
from cola_jax.execute.trie import Trie
from cola_jax.path import STOP, pad_path, random_paths

SHAPES = (TileShape(5, 8), TileShape(3, 16), TileShape(2, 32))


def one_shape(rows, questions=8):
    return Layout.of_one(TileShape(rows, 8), questions)


def carry_out(trie, chunks, paths, slots):
    """Runs chunks on `slots`, {slot: (question, prefix)}, and checks every row and output."""
    done = {}
    for chunk in chunks:
        for question, slot in chunk.embedded.tolist():
            slots[slot] = (question, ())
        numbers = {}
        for layer, rows in rows_of(trie, chunk.tiles):
            # a tile reads all its slots before it writes any
            read = [slots.get(source) for source, *_ in rows]
            for state, (_, slot, asked, number) in zip(read, rows, strict=True):
                if number == NONE:
                    assert slot == trie.slots
                    continue
                assert state is not None
                assert state[0] == asked
                slots[slot] = (asked, (*state[1], layer))
                assert number not in numbers  # a state runs once
                numbers[number] = slots[slot]
        assert set(slots) <= set(range(trie.slots))
        for layer, rows in rows_of(trie, chunk.last):
            for slot, row, asked, number in rows:
                if row != len(chunk.paths):
                    assert slots[slot][0] == asked
                    end = (asked, (*slots[slot][1], layer))
                    done[int(chunk.paths[row])] = end
                    assert numbers.setdefault(number, end) == end
        assert len(set(numbers.values())) == len(numbers)
    for number, path in enumerate(paths.tolist()):
        assert done[number] == (path[0], tuple(i for i in path[1:] if i != STOP))


def rows_of(trie, tiles):
    """Yields the layer of each tile and its rows, which fit the tile's shape."""
    layout = trie.layout
    for table, states, shape in zip(tiles.table, tiles.state, tiles.shape, strict=True):
        real = states != NONE
        assert not real[layout.shapes[shape].rows :].any()
        questions = table[3, real]
        assert (layout.length[questions] <= layout.shapes[shape].tokens).all()
        yield int(table[0, 0]), np.stack([*table[1:4], states], axis=1).tolist()


PATHS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 4), min_size=1, max_size=7)),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200)
@given(
    st.lists(PATHS, min_size=1, max_size=4),
    st.one_of(st.integers(2, 9), st.sampled_from([40, 5000])),
    st.lists(st.integers(1, 32), min_size=4, max_size=4),
    st.integers(1, 20),
)
def test_plan_computes_any_paths_in_any_sizes(waves, slots, lengths, outputs):
    """Equal paths, prefixes of others, one layer again and again, and prompts of any lengths.

    Over waves of several widths, with states of earlier ones, and evictions where slots are few.
    """
    tokens = [shape.tokens for shape in SHAPES]
    layout = Layout(SHAPES, np.searchsorted(tokens, lengths), np.array(lengths))
    trie, held = Trie(slots, layout, outputs), {}
    for number, paths in enumerate(waves):
        width = (8, 12, 7, 9)[number]
        table = np.array([[question, *pad_path(path, width)] for question, path in paths])
        chunks, cost = trie.plan(table)
        assert all(len(chunk.paths) <= outputs for chunk in chunks)
        carry_out(trie, chunks, table, held)
        assert cost.useful == (table[:, 1:] != STOP).sum()
        assert cost.last == len(paths)
        assert cost.unique + cost.last + cost.hits <= cost.useful
        assert cost.evicted == 0 or slots < 5000
        all_tiles = [tiles for chunk in chunks for tiles in (chunk.tiles, chunk.last)]
        assert cost.token_rows == sum(token_rows(tiles, layout) for tiles in all_tiles)
        assert cost.tokens == sum(
            layout.length[tiles.table[:, 3][tiles.state != NONE]].sum() for tiles in all_tiles
        )


def test_plan_reuses_held_states():
    trie = Trie(100, one_shape(2), 10)
    path = np.array([[0, *pad_path((0, 1, 2, 3), 8)]])
    first, again = (trie.plan(path)[1] for _ in range(2))
    assert (first.unique, first.hits) == (3, 0)
    assert (again.unique, again.hits) == (0, 3)
    longer = np.array([[0, *pad_path((0, 1, 2, 2, 3), 8)], [1, *pad_path((0, 1), 8)]])
    cost = trie.plan(longer)[1]
    assert (cost.unique, cost.hits) == (2, 3)  # 0,1,2,2 of one question, 0 of the other


def test_plan_evicts_states_on_few_paths():
    """With room for few states, those that most paths share are the ones that are left."""
    trie = Trie(6, one_shape(1), 3)
    base = (0, 1, 2)
    paths = np.array(
        [[0, *pad_path((*base, last, other), 8)] for last in (3, 4) for other in (5, 3)]
    )
    trie.plan(paths)
    cost = trie.plan(np.array([[0, *pad_path((*base, 5), 8)]]))[1]
    assert cost.hits >= 2


def test_plan_of_no_paths_has_no_chunks():
    assert Trie(4, one_shape(1), 4).plan(np.zeros((0, 5), int)) == ([], Cost())


def test_trie_refuses_too_few_slots():
    with pytest.raises(ValueError, match="a path needs 2 slots, there are 1"):
        Trie(1, one_shape(1), 1)


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
def test_paths_at_once_leaves_slots_to_go_on(slots, rows):
    assert 1 <= paths_at_once(slots, rows) < slots
    if slots > 2 * rows:
        assert paths_at_once(slots, rows) == slots - rows


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
