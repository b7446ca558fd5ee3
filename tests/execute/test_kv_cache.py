"""The KV cache: blocks on the device, and who may read and write them when."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.execute.kv_cache import (
    Allocator,
    KVBlocks,
    Past,
    Row,
    attention_over_parts,
    put_tokens_at_once,
    put_tokens_by_rows,
)
from cola_jax.execute.memory import stored_as
from cola_jax.execute.plan import Tiles
from cola_jax.model import attention_over
from cola_jax.params import FULL
from cola_jax.path import STOP

BLOCKS, R, K, G, H = 5, 3, 2, 2, 4  # blocks, rows, key/value heads, queries of each, head width


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# On the device


def tile(question, block, prompt_block=None):
    """A tile of R rows that keep keys and values."""
    prompt_block = None if prompt_block is None else jnp.array(prompt_block)
    columns = (jnp.array(x) for x in (question, question, question, block))
    return Tiles(jnp.int32(0), *columns, prompt_block)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kv_blocks_hold_prompts(dtype):
    empty = jnp.zeros((BLOCKS + 1, K, 8, H), stored_as(dtype, "cpu"))
    k, v = (normal(R, 8, K, H, seed=seed).astype(dtype) for seed in (0, 1))
    rows = jnp.array([4, 0, 2])
    cache = KVBlocks(k=empty, v=empty).write_prompts(k, v, tile([0, 1, 2], rows))
    assert cache.k.dtype == empty.dtype
    for tokens in (8, 3):
        taken = cache.take(rows, tokens)
        np.testing.assert_array_equal(taken.k, k[:, :tokens].transpose(0, 2, 1, 3))
        np.testing.assert_array_equal(taken.v, v[:, :tokens].transpose(0, 2, 1, 3))
    assert not cache.take(jnp.array([1, 3, 5]), 8).k.any()


def test_past_writes_the_last_token_of_each_row():
    empty = jnp.zeros((BLOCKS + 1, K, 6, H))
    past = Past(None, length=jnp.array([9, 9, 9]), decoded=jnp.array([3, 1, 6]))
    k, v = normal(R, 1, K, H), normal(R, 1, K, H, seed=1)
    cache = past.write(KVBlocks(k=empty, v=empty), k, v, tile([2, 0, 1], [1, 4, 3]))
    expected = np.zeros(empty.shape)
    for row, (block, token) in enumerate([(1, 5), (4, 2), (3, 0)]):
        expected[block, :, token] = k[row, 0]
    np.testing.assert_array_equal(cache.k, expected)
    assert (np.asarray(cache.v) != 0).sum() == R * K * H


@pytest.mark.parametrize("write", [put_tokens_at_once, put_tokens_by_rows])
def test_tokens_are_written_alike_on_every_device(write):
    buffer, values = jnp.zeros((BLOCKS, K, 6, H)), normal(2, K, H)
    written = write(buffer, values, jnp.array([3, 1]), jnp.array([5, 0]))
    expected = np.zeros(buffer.shape)
    expected[3, :, 5], expected[1, :, 0] = values
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("window", [FULL, 4])
def test_past_attends_to_prompt_and_decoded_tokens(window):
    """As attention over all tokens of each row; NaN elsewhere in its blocks is not seen."""
    lengths, decoded, reach = [7, 2, 5], [2, 5, 1], 5
    block, prompt_block, tokens = [3, 1, 0], [2, 4, 1], 9
    k, v = (np.asarray(normal(R, tokens, K, H, seed=seed)) for seed in (0, 1))
    seen = np.zeros((R, 1, tokens), bool)
    prompts, texts = (np.full((2, BLOCKS + 1, K, x, H), np.nan, np.float32) for x in (8, 6))
    for row, (length, new) in enumerate(zip(lengths, decoded, strict=True)):
        end = length + new
        seen[row, 0, max(0, end - window) : end] = True
        for i, x in enumerate((k, v)):
            prompts[i, prompt_block[row], :, :length] = x[row, :length].transpose(1, 0, 2)
            texts[i, block[row], :, :new] = x[row, length:end].transpose(1, 0, 2)
    cache, prompt = (KVBlocks(*map(jnp.asarray, blocks)) for blocks in (texts, prompts))
    past = Past(prompt, length=jnp.array(lengths), decoded=jnp.array(decoded))
    some = tile([0, 1, 2], block, prompt_block)
    attention = past.attention(cache, some, jnp.int32(window), reach)
    q = normal(R, 1, K * G, H, seed=2)
    expected = attention_over(jnp.asarray(k), jnp.asarray(v), jnp.asarray(seen))(q)
    np.testing.assert_allclose(attention(q), expected, rtol=1e-5, atol=1e-6)


def test_attention_over_parts_of_nothing_is_finite():
    """A padding row sees no token."""
    parts = [KVBlocks(k=normal(R, K, x, H), v=normal(R, K, x, H)) for x in (4, 2)]
    masks = [jnp.zeros((R, 1, x), bool) for x in (4, 2)]
    out = attention_over_parts(parts, masks)(normal(R, 1, K * G, H))
    assert np.isfinite(out).all()


# On the host

POSITIONS = 6


def check_blocks(allocator, live):
    """Checks that every slot and block is either free or where the live rows say."""
    for pool, used in (
        (allocator.slots, [row.slot for row in live]),
        (
            allocator.own_pool,
            [b for row in live for b in allocator.own_block[row.slot, : len(row.path)]],
        ),
    ):
        assert sorted([*pool.free.tolist(), *used]) == list(range(len(pool.free) + len(used)))
    readers = np.zeros_like(allocator.readers)
    for row in live:
        np.add.at(readers, allocator.prompt_block[row.slot, : len(row.path)], 1)
        assert (allocator.prompt_block[row.slot, len(row.path) :] == allocator.padding_block).all()
        assert allocator.row[row.slot] is row
    np.testing.assert_array_equal(readers, allocator.readers)
    assert sorted(allocator.prompt_pool.free) == np.flatnonzero(readers[:-1] == 0).tolist()


def prefill(admission, slots, tile, content, states):
    """Runs the chunks of an admission on prefixes; `content` is that of blocks."""
    held = {}
    for chunk, cost in admission.chunks(slots, tile):
        assert cost.last == len(chunk.paths)
        for question, slot in chunk.embedded.tolist():
            held[slot] = (question, ())
        for tiles, target_of in ((chunk.tiles, held), (chunk.last, states)):
            columns = (tiles.layer, tiles.source, tiles.target, tiles.question, tiles.block)
            for layer, *rows in zip(*(x.tolist() for x in columns), strict=True):
                read = [held.get(source) for source in rows[0]]
                for state, target, question, block in zip(read, *rows[1:], strict=True):
                    if block == admission.block[-1]:  # padding
                        assert target == (slots if target_of is held else admission.padding_slot)
                        continue
                    assert state[0] == question
                    target_of[target] = content[block] = (question, (*state[1], layer))


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(
                    st.integers(0, 2),
                    st.lists(st.integers(0, 2), min_size=1, max_size=POSITIONS),
                ),
                min_size=1,
                max_size=6,
            ),
            st.randoms(use_true_random=False),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 3),
)
def test_allocator_keeps_blocks_of_live_rows(waves, tile):
    """However rows come and go, each finds its own prefixes in its blocks until it leaves."""
    allocator = Allocator(slots=5, blocks=4 * POSITIONS, positions=POSITIONS)
    live, content, states = [], {}, {}
    for waiting, random in waves:
        rows = [Row(question, np.array(path)) for question, path in waiting]
        rows = rows[: allocator.room(rows)]
        if rows:
            admission = allocator.admit(rows, lengths=np.array([4, 5, 6]))
            prefill(admission, 5 + 2 * tile, tile, content, states)
            live += rows
        check_blocks(allocator, live)
        for row in live:
            end = (row.question, tuple(row.path.tolist()))
            assert states[row.slot] == end
            assert allocator.length[row.slot] == 4 + row.question
            blocks = allocator.prompt_block[row.slot, : len(row.path)]
            for depth, block in enumerate(blocks.tolist(), 1):
                assert content[block] == (end[0], end[1][:depth])
        for row in random.sample(live, random.randint(0, len(live))):
            allocator.release(row)
            live = [other for other in live if other is not row]
        check_blocks(allocator, live)
    for row in live:
        allocator.release(row)
    assert allocator.room([Row(0, np.zeros(POSITIONS, int))] * 9) == 4
    assert (allocator.path == STOP).all()


def test_allocator_shares_blocks_of_equal_prefixes():
    """Of rows admitted together, on one question; equal paths share all."""
    allocator = Allocator(slots=4, blocks=16, positions=4)
    paths = [(0, (0, 1, 2)), (0, (0, 1, 3)), (1, (0, 1, 2)), (0, (0, 1, 2))]
    rows = [Row(question, np.array(path)) for question, path in paths]
    allocator.admit(rows, lengths=np.array([4, 4]))
    first, second, other, equal = (allocator.prompt_block[row.slot, :3].tolist() for row in rows)
    assert first == equal
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert not set(first + second) & set(other)
    assert len(allocator.prompt_pool.free) == 16 - 4 - 3
    assert len(allocator.own_pool.free) == 16 - 12


@pytest.mark.parametrize(("slots", "blocks", "room"), [(9, 5, 2), (9, 6, 3), (2, 99, 2), (1, 1, 0)])
def test_room_counts_rows_that_fit_without_sharing(slots, blocks, room):
    rows = [Row(0, np.zeros(size, int)) for size in (3, 2, 1, 4)]
    assert Allocator(slots, blocks, POSITIONS).room(rows) == room
