"""The allocator of KV blocks: which rows may read and write them when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.kv_cache import Allocator, DecodeRow
from cola_jax.execute.layout import Layout
from cola_jax.execute.plan import TileColumns
from cola_jax.path import STOP

POSITIONS = 6
CACHE = np.array([0, 1, 0])  # of each layer


def check_blocks(allocator, live):
    """Check that every slot and block is either free or assigned to a live row."""
    own: list[list[int]] = [[], []]
    for row in live:
        for block, layer in zip(allocator.own_block[row.slot], row.path, strict=False):
            own[CACHE[layer]].append(block)
    slots = [row.slot for row in live]
    for pool, used in ((allocator.slots, slots), *zip(allocator.own_pools.pools, own, strict=True)):
        first = int(pool is not allocator.slots)
        every = list(range(first, first + len(pool.free) + len(used)))
        assert sorted([*pool.free.tolist(), *used]) == every
    readers = np.zeros_like(allocator.readers)
    for row in live:
        blocks = allocator.prompt_block[row.slot, : len(row.path)]
        np.add.at(readers, (CACHE[row.path], blocks), 1)
        assert (allocator.prompt_block[row.slot, len(row.path) :] == allocator.padding_block).all()
        assert allocator.row[row.slot] is row
    np.testing.assert_array_equal(readers, allocator.readers)
    for pool, read in zip(allocator.prompt_pools.pools, readers, strict=True):
        free = np.flatnonzero(read == 0)[1:]  # but for padding
        assert sorted(pool.free) == free[free <= len(pool.free) + (read > 0).sum()].tolist()


def prefill(allocator, chunks, slots, content, states):
    """Run the chunks of an admission on prefixes; `content` is that of blocks."""
    held = {}
    for chunk in chunks:
        for question, slot in chunk.embedded.tolist():
            held[slot] = (question, ())
        for tiles, target_of in ((chunk.tiles, held), (chunk.last, states)):
            for table in tiles.table:
                columns = TileColumns(*table)
                rows = np.array([*columns[:4], columns.block]).T.tolist()
                read = [held.get(source) for _, source, *_ in rows]
                for state, (layer, _, target, question, block) in zip(read, rows, strict=True):
                    if block == allocator.padding_block:
                        padding = slots if target_of is held else allocator.padding_slot
                        assert target == padding
                        continue
                    assert state[0] == question
                    end = question, (*state[1], layer)
                    target_of[target] = content[CACHE[layer], block] = end


ROW = st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=POSITIONS))
WAVE = st.tuples(st.lists(ROW, min_size=1, max_size=6), st.randoms(use_true_random=False))


@given(st.lists(WAVE, min_size=1, max_size=5), st.integers(1, 3))
def test_allocator_keeps_blocks_of_live_rows(waves, tile):
    """However rows come and go, each finds its own prefixes in its blocks until it leaves."""
    blocks = 4 * POSITIONS, 2 * POSITIONS
    allocator = Allocator(slots=5, blocks=blocks, positions=POSITIONS, cache=CACHE.tolist())
    layout, slots = Layout.of_rows(8, tile, 3), 5 + 2 * tile
    live, content, states = [], {}, {}
    for waiting, random in waves:
        rows = [DecodeRow(question, np.array(path)) for question, path in waiting]
        rows = rows[: allocator.count_fitting(rows)]
        if rows:
            chunks, cost = allocator.admit(rows, np.array([4, 5, 6]), slots, layout)
            assert cost.last == len(rows)
            prefill(allocator, chunks, slots, content, states)
            live += rows
        check_blocks(allocator, live)
        for row in live:
            end = (row.question, tuple(row.path.tolist()))
            assert states[row.slot] == end
            assert allocator.length[row.slot] == 4 + row.question
            blocks = allocator.prompt_block[row.slot, : len(row.path)]
            for depth, block in enumerate(blocks.tolist(), 1):
                cache = CACHE[row.path[depth - 1]]
                assert content[cache, block] == (end[0], end[1][:depth])
        for row in random.sample(live, random.randint(0, len(live))):
            allocator.release(row)
            live = [other for other in live if other is not row]
        check_blocks(allocator, live)
    for row in live:
        allocator.release(row)
    assert allocator.count_fitting([DecodeRow(0, np.zeros(POSITIONS, int))] * 9) == 4
    assert (allocator.path == STOP).all()


@pytest.mark.parametrize(("slots", "blocks", "room"), [(9, 5, 2), (9, 6, 3), (2, 99, 2), (1, 1, 0)])
def test_count_fitting_counts_rows_without_sharing(slots, blocks, room):
    rows = [DecodeRow(0, np.zeros(size, int)) for size in (3, 2, 1, 4)]
    assert Allocator(slots, [blocks], POSITIONS, [0]).count_fitting(rows) == room
    rows += [DecodeRow(0, np.array([0, 1])), DecodeRow(0, np.array([1, 1]))]
    assert Allocator(9, [9, 2], POSITIONS, [0, 1]).count_fitting(rows[3:]) == 2


def test_allocator_shares_blocks_of_equal_prefixes():
    allocator = Allocator(slots=4, blocks=[16], positions=4, cache=[0] * 4)
    paths = [(0, (0, 1, 2)), (0, (0, 1, 3)), (1, (0, 1, 2)), (0, (0, 1, 2))]
    rows = [DecodeRow(question, np.array(path)) for question, path in paths]
    allocator.admit(rows, np.array([4, 4]), 9, Layout.of_rows(8, 2, 2))
    assert allocator.prompt_pools.count_free() == 16 - 4 - 3  # of the questions
    assert allocator.own_pools.count_free() == 16 - 12
