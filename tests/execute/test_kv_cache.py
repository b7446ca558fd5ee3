"""The KV cache: blocks on the device, how they are written and attended to."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.kv_cache import (
    KVBlocks,
    Past,
    attention_over_parts,
    put_tokens_at_once,
    put_tokens_by_rows,
)
from cola_jax.execute.memory import stored_as
from cola_jax.execute.plan import Tiles
from cola_jax.model import attention_over
from cola_jax.params import FULL

BLOCKS, R, K, G, H = 5, 3, 2, 2, 4  # blocks, rows, key/value heads, queries of each, head width


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


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
