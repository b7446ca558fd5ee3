"""The allocator of blocks and their pages: which rows may read and write them when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.kv_cache import Allocator, DecodeRow
from cola_jax.execute.layout import Layout
from cola_jax.execute.memory import DecodeSizes, PageSizes
from cola_jax.execute.plan import TileColumns
from cola_jax.path import STOP
from cola_jax.steps import ATTENTION, MLP, Step, layer_of, part_of

POSITIONS = 6
CACHE = np.array([0, 1, 0])  # of each layer; what the second one keeps does not grow
GROWS = [True, False]
LENGTHS = np.array([4, 5, 9])  # of prompts, in pages of 4 tokens
TEXT = 7  # tokens, in pages of 3


def make(slots, prompts, texts, *, cache=CACHE, grows=GROWS, positions=POSITIONS):
    """Makes an allocator with so many pages of each cache."""
    sizes = DecodeSizes(
        decode_slots=slots,
        positions=positions,
        prompts=PageSizes(4, 3, prompts),
        texts=PageSizes(3, 3, texts),
        prefilled=slots,
        slots=slots,
        heights=(4,),
        unembedded=1,
    )
    return Allocator(sizes, np.array(cache).tolist(), grows)


def check_pages(table, tokens_of):
    """Check that pages are free or of a block with tokens, which has as many as it needs."""
    used: list[list[int]] = [[], []]
    for block, (cache, tokens) in tokens_of.items():
        count = -(-tokens // table.page) if GROWS[cache] else 1
        assert (table.table[block, :count] > 0).all()
        assert (table.table[block, count:] == 0).all()
        used[cache] += table.table[block, :count].tolist()
    others = np.setdiff1d(np.arange(len(table.table)), list(tokens_of))
    assert (table.table[others] == 0).all()
    for pool, pages in zip(table.pools, used, strict=True):
        assert sorted([*pool.free.tolist(), *pages]) == list(
            range(1, 1 + pool.free.size + len(pages))
        )


def check(allocator, live):
    """Check that every slot, block and page is either free or assigned to a live row."""
    texts, prompts, taken = {}, {}, set()
    readers = np.zeros_like(allocator.readers)
    for row in live:
        assert allocator.row[row.slot] is row
        blocks = allocator.prompt_block[row.slot, : len(row.path)]
        np.add.at(readers, blocks, 1)
        assert (allocator.prompt_block[row.slot, len(row.path) :] == 0).all()
        taken |= set(blocks.tolist())
        for position, step in enumerate(row.path):
            if part_of(step) == MLP:  # keeps no keys and values
                continue
            cache = CACHE[layer_of(step)]
            texts[allocator.text_block[row.slot, position]] = cache, max(1, row.dispatched)
            prompts[blocks[position]] = cache, LENGTHS[row.question]
    np.testing.assert_array_equal(readers, allocator.readers)
    check_pages(allocator.prompts, prompts)
    check_pages(allocator.texts, texts)
    slots = [*allocator.slots.free.tolist(), *(row.slot for row in live)]
    assert sorted(slots) == list(range(allocator.padding_slot))
    blocks = [*allocator.prompt_blocks.free.tolist(), *taken]
    assert sorted(blocks) == list(range(1, len(readers)))


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
                    if block == 0:
                        padding = slots if target_of is held else allocator.padding_slot
                        assert target == padding
                        continue
                    assert state[0] == question
                    end = question, (*state[1], layer)
                    target_of[target] = content[block] = end


STEPS = [0, 1, 2, Step(0, MLP).id, Step(1, MLP, 0.5).id, Step(2, ATTENTION).id, Step(2, share=2).id]
PATH = st.lists(st.sampled_from(STEPS), min_size=1, max_size=POSITIONS)
ROW = st.tuples(st.integers(0, 2), PATH)
WAVE = st.tuples(st.lists(ROW, min_size=1, max_size=6), st.randoms(use_true_random=False))


@given(st.lists(WAVE, min_size=1, max_size=5), st.integers(1, 3))
def test_allocator_keeps_blocks_of_live_rows(waves, tile):
    """However rows come, grow and go, each finds its own prefixes until it leaves."""
    pages = 9 * POSITIONS, 2 * POSITIONS
    allocator = make(5, pages, pages)
    layout, slots = Layout.of_rows(8, tile, 3), 5 + 2 * tile
    live, content, states = [], {}, {}
    for waiting, random in waves:
        rows = [DecodeRow(question, np.array(path)) for question, path in waiting]
        rows = rows[: allocator.count_fitting(rows, [int(LENGTHS[row.question]) for row in rows])]
        if rows:
            questions = np.array([row.question for row in rows])
            chunks, cost = allocator.admit(rows, questions, LENGTHS, slots, layout)
            assert cost.last == len(rows)
            prefill(allocator, chunks, slots, content, states)
            live += rows
            for row in rows:
                row.dispatched = 1
        check(allocator, live)
        for row in live:
            end = (row.question, tuple(row.path.tolist()))
            assert states[row.slot] == end
            assert allocator.length[row.slot] == LENGTHS[row.question]
            blocks = allocator.prompt_block[row.slot, : len(row.path)]
            for depth, block in enumerate(blocks.tolist(), 1):
                assert content[block] == (end[0], end[1][:depth])
        for _ in range(random.randint(0, 4)):
            growing = [row for row in live if row.dispatched < TEXT]
            for row in growing:
                row.dispatched += 1
            if not allocator.grow(growing):  # nothing has changed
                for row in growing:
                    row.dispatched -= 1
                break
            check(allocator, live)
        for row in random.sample(live, random.randint(0, len(live))):
            allocator.release(row)
            live = [other for other in live if other is not row]
        check(allocator, live)
    for row in live:
        allocator.release(row)
    rows = [DecodeRow(0, np.array([0, 1] * 3))] * 9
    assert allocator.count_fitting(rows, [4] * 9) == 4  # by pages of the second cache
    assert (allocator.path == STOP).all()


@pytest.mark.parametrize(
    ("slots", "prompts", "texts", "room"),
    [
        (9, 99, 12, 3),  # two pages of text at each of 3 + 2 + 1 positions
        (9, 99, 11, 2),
        (9, 6, 99, 3),
        (9, 5, 99, 2),
        (2, 99, 99, 2),
        (1, 1, 99, 0),
    ],
)
def test_count_fitting_counts_rows_without_sharing(slots, prompts, texts, room):
    """And leaves a page for what each text decodes next."""
    rows = [DecodeRow(0, np.zeros(size, int)) for size in (3, 2, 1, 4)]
    allocator = make(slots, [prompts], [texts], cache=[0], grows=[True])
    assert allocator.count_fitting(rows, [4] * 4) == room


def test_an_mlp_alone_takes_no_pages():
    rows = [DecodeRow(0, np.array([0, Step(0, MLP).id, Step(0, MLP, 0.5).id])) for _ in range(3)]
    allocator = make(3, [2], [99], cache=[0], grows=[True])
    assert allocator.count_fitting(rows, [4] * 3) == 2


def test_long_prompts_take_more_pages_than_short_ones():
    rows = [DecodeRow(0, np.array([0, 0])) for _ in range(4)]
    allocator = make(4, [11], [99], cache=[0], grows=[True])
    assert allocator.count_fitting(rows, [4, 12, 4, 1]) == 3
    assert allocator.count_fitting(rows, [12, 12, 1, 1]) == 1


def test_allocator_shares_blocks_of_equal_prefixes():
    allocator = make(4, [32], [64], cache=[0] * 4, grows=[True], positions=4)
    paths = [(0, (0, 1, 2)), (0, (0, 1, 3)), (1, (0, 1, 2)), (0, (0, 1, 2))]
    rows = [DecodeRow(question, np.array(path)) for question, path in paths]
    questions = np.array([question for question, _ in paths])
    allocator.admit(rows, questions, np.array([4, 5]), 9, Layout.of_rows(8, 2, 2))
    assert allocator.prompts.count_free() == 32 - 4 - 2 * 3  # of the questions
    assert allocator.texts.count_free() == 64 - 12
