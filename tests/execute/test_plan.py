"""The plan, run on prefixes in place of states: every path must come out of the right slot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.edits import random_paths
from cola_jax.execute.plan import Cost
from cola_jax.execute.schedule import Trie
from cola_jax.path import STOP, pad_path


def carry_out(trie, chunks, paths, slots):
    """Runs chunks on `slots`, {slot: (question, prefix)}, and checks every row and output."""
    done = {}
    for chunk in chunks:
        for question, slot in chunk.planted.tolist():
            slots[slot] = (question, ())
        numbers = {}
        for layer, source, target, question, numbered in rows_of(chunk.tiles):
            # a tile reads all its slots before it writes any
            read = [slots.get(slot) for slot in source]
            rows = zip(read, target, question, numbered, strict=True)
            for state, slot, asked, number in rows:
                if slot != trie.slots:
                    assert state is not None
                    assert state[0] == asked
                    slots[slot] = (asked, (*state[1], layer))
                    assert numbers.setdefault(number, slots[slot]) == slots[slot]
        assert set(slots) <= set(range(trie.slots))
        for layer, source, target, question, numbered in rows_of(chunk.finals):
            for slot, row, asked, number in zip(source, target, question, numbered, strict=True):
                if row != len(chunk.paths):
                    assert slots[slot][0] == asked
                    end = (asked, (*slots[slot][1], layer))
                    done[int(chunk.paths[row])] = end
                    assert numbers.setdefault(number, end) == end
        assert len(set(numbers.values())) == len(numbers)
    for number, path in enumerate(paths.tolist()):
        assert done[number] == (path[0], tuple(i for i in path[1:] if i != STOP))


def rows_of(tiles):
    return zip(*(column.tolist() for column in tiles), strict=True)


def wave(questions, each, seed, num_layers=6, width=12):
    drawn = random_paths(num_layers, questions * each, seed)
    generator = np.random.default_rng(seed)
    return np.array([[generator.integers(questions), *pad_path(path, width)] for path in drawn])


@pytest.mark.parametrize("slots", [2, 3, 7, 40, 5000])
@pytest.mark.parametrize("rows", [1, 3, 8, 32])
def test_every_path_comes_out_right(slots, rows):
    """Over waves that grow wider, with states of earlier waves and evictions."""
    trie, held = Trie(slots, rows, 50), {}
    cost = Cost()
    for number in range(4):
        paths = wave(3, 12, number, width=(12, 15, 13, 12)[number])
        chunks, spent = trie.plan(paths)
        carry_out(trie, chunks, paths, held)
        cost += spent
        assert spent.useful == (paths[:, 1:] != STOP).sum()
        assert spent.finals == len(paths)
        assert spent.rows % rows == 0
        assert spent.unique + spent.finals + spent.hits <= spent.useful
    assert (cost.evicted > 0) == (slots < 5000)
    if slots == 5000:
        assert cost.hits > 0


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12),
    st.integers(2, 6),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_any_paths_any_sizes(paths, slots, rows, outputs):
    """Equal paths, prefixes of others, and one layer again and again are all fine."""
    trie = Trie(slots, rows, outputs)
    table = np.array([[i % 2, *pad_path(path, 6)] for i, path in enumerate(paths)])
    held = {}
    for _ in range(2):
        chunks, _ = trie.plan(table)
        assert all(len(chunk.paths) <= outputs for chunk in chunks)
        carry_out(trie, chunks, table, held)


def test_what_is_held_is_not_run_again():
    trie = Trie(100, 2, 10)
    path = np.array([[0, *pad_path((0, 1, 2, 3), 8)]])
    first, again = (trie.plan(path)[1] for _ in range(2))
    assert (first.unique, first.hits) == (3, 0)
    assert (again.unique, again.hits) == (0, 3)
    longer = np.array([[0, *pad_path((0, 1, 2, 2, 3), 8)], [1, *pad_path((0, 1), 8)]])
    cost = trie.plan(longer)[1]
    assert (cost.unique, cost.hits) == (2, 3)  # 0,1,2,2 of one question, 0 of the other


def test_states_on_many_paths_stay():
    """With room for few states, those that most paths share are the ones that are left."""
    trie = Trie(6, 1, 3)
    base = (0, 1, 2)
    paths = np.array(
        [[0, *pad_path((*base, last, other), 8)] for last in (3, 4) for other in (5, 3)]
    )
    trie.plan(paths)
    cost = trie.plan(np.array([[0, *pad_path((*base, 5), 8)]]))[1]
    assert cost.hits >= 2


def test_a_layer_fills_its_tiles_first():
    """Paths that meet in a layer run it together, whatever their depth."""
    trie = Trie(100, 4, 100)
    paths = np.array([[q, *pad_path((*([q] * q), 5, 4), 8)] for q in range(4)])
    (chunk,), cost = trie.plan(paths)
    (layer_5,) = np.flatnonzero(chunk.tiles.layer == 5)
    assert (chunk.tiles.target[layer_5] != trie.slots).all()
    assert cost.unique == 3 * 4 // 2 + 4


def test_runs_cover_all_tiles_in_order():
    trie = Trie(1000, 2, 100)
    (chunk,), _ = trie.plan(wave(3, 12, 0))
    runs = list(chunk.tiles.runs())
    assert [start for _, start, _ in runs] == [0, *[end for _, _, end in runs[:-1]]]
    assert runs[-1][2] == len(chunk.tiles.layer)
    for layer, start, end in runs:
        assert (chunk.tiles.layer[start:end] == layer).all()


def test_no_paths_no_chunks():
    assert Trie(4, 1, 4).plan(np.zeros((0, 5), int)) == ([], Cost())


def test_too_few_slots():
    with pytest.raises(ValueError, match="a path needs 2 slots, there are 1"):
        Trie(1, 1, 1)
