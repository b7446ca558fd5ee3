"""Attention by XLA to a prompt and a KV cache, against attention to all tokens of each row.

Buffers hold what was written in any form, and are updated in place.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.kernels.attention import (
    MOST_GATHERED,
    DecodeAttention,
    PromptAttention,
    Rotated,
    Rows,
    attend_to_parts,
    get,
    get_at_once,
    get_by_rows,
    put,
    put_at_once,
    put_by_rows,
    put_tokens_at_once,
    put_tokens_by_rows,
    stored_as,
)
from cola_jax.model import attend
from cola_jax.params import FULL

BLOCKS, R, K, G, H = 5, 3, 2, 2, 4  # blocks, rows, key/value heads, queries of each, head width


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("write", [put_tokens_at_once, put_tokens_by_rows])
def test_tokens_are_written_alike_on_every_device(write):
    buffer, values = jnp.zeros((BLOCKS, K, 6, H)), normal(2, K, H)
    written = write(buffer, jnp.asarray(values), jnp.array([3, 1]), jnp.array([5, 0]))
    expected = np.zeros(buffer.shape)
    expected[3, :, 5], expected[1, :, 0] = values
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("window", [FULL, 4])
def test_decode_attention_sees_the_prompt_and_decoded_tokens(window):
    """It writes the new token as well; NaN elsewhere in the blocks is not seen."""
    lengths, decoded, reach, tokens = [7, 2, 5], [2, 5, 1], 5, 9
    block, prompt_block = [3, 1, 0], [2, 4, 1]
    k, v = (normal(R, tokens, K, H, seed=seed) for seed in (0, 1))
    seen, token = np.zeros((R, 1, tokens), bool), np.zeros((2, R, 1, K, H), np.float32)
    prompts, texts = (np.full((2, BLOCKS + 1, K, x, H), np.nan, np.float32) for x in (8, 6))
    after = texts.copy()
    for row, (length, new) in enumerate(zip(lengths, decoded, strict=True)):
        end = length + new
        seen[row, 0, max(0, end - window) : end] = True
        for i, x in enumerate((k, v)):
            prompts[i, prompt_block[row], :, :length] = x[row, :length].transpose(1, 0, 2)
            after[i, block[row], :, :new] = x[row, length:end].transpose(1, 0, 2)
            token[i, row, 0] = x[row, end - 1]
        texts[:, block[row], :, : new - 1] = after[:, block[row], :, : new - 1]
    nth = jnp.array(decoded) - 1
    width = jnp.full(1, window, jnp.int32)
    rows = Rows(jnp.array(prompt_block), jnp.array(block), jnp.array(lengths), nth, width)
    q = jnp.asarray(normal(R, 1, K * G, H, seed=2))
    pairs = [tuple(map(jnp.asarray, pair)) for pair in (token, prompts, texts)]
    mixed, own = DecodeAttention()(rows, q, *pairs, (tokens, reach))
    expected = attend(q, jnp.asarray(k), jnp.asarray(v), jnp.asarray(seen))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(own, after)


def test_prompt_attention_after_a_prefix_is_that_over_both():
    """Keys before are rotated already; keys and values of both are kept."""
    tokens, before, width = 6, 4, H // 2
    k, v = (jnp.asarray(normal(R, before + tokens, K, H, seed=seed)) for seed in (0, 1))
    q, none = jnp.asarray(normal(R, 2, K * G, H, seed=2)), (R, before, width)
    angles = [np.concatenate([np.zeros(none), normal(R, n, width, seed=3)], 1) for n in (6, 2)]
    of_keys, of_queries = ((jnp.cos(x), jnp.sin(x)) for x in map(jnp.float32, angles))
    of_queries = tuple(x[:, before:] for x in of_queries)
    mask = jnp.asarray(np.random.default_rng(4).integers(0, 2, (R, 2, before + tokens)) > 0)
    whole = Rotated(q, k, v, of_queries, of_keys)
    mixed, kept = PromptAttention().over(whole, mask, keep=True)
    heads_first = [x[:, :before].transpose(0, 2, 1, 3) for x in kept]
    rest = whole._replace(
        k=k[:, before:], v=v[:, before:], of_keys=tuple(x[:, before:] for x in of_keys)
    )
    after, both = PromptAttention().after(
        tuple(heads_first), mask[..., :before], rest, mask[..., before:], keep=True
    )
    np.testing.assert_allclose(after, mixed, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(both, kept, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_attention_to_nothing_is_finite():
    """A padding row sees no token."""
    parts = [tuple(jnp.asarray(normal(R, K, x, H)) for _ in range(2)) for x in (4, 2)]
    masks = [jnp.zeros((R, 1, x), bool) for x in (4, 2)]
    assert np.isfinite(attend_to_parts(jnp.asarray(normal(R, 1, K * G, H)), parts, masks)).all()


# Buffers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_get_returns_what_put_wrote(dtype, platform):
    values = jnp.array([[1.5, -0.0, jnp.inf], [jnp.nan, -3e-3, 7.0]], dtype)
    buffer = jnp.zeros((4, 3), stored_as(dtype, platform))
    written = jax.jit(put)(buffer, values, jnp.array([2, 0]))
    assert written.dtype == buffer.dtype
    read = get(written, jnp.array([2, 0, 1]))
    assert read.dtype == values.dtype
    expected = jnp.concatenate([values, jnp.zeros((1, 3), dtype)])
    np.testing.assert_array_equal(read.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.parametrize("write", [put_at_once, put_by_rows])
@pytest.mark.parametrize("width", [2, 3])
def test_rows_are_written_alike_on_every_device(write, width):
    """Whole, or their beginnings."""
    buffer, values = jnp.ones((4, 2, 3)), jnp.arange(4.0 * width).reshape(2, 2, width)
    expected = np.ones(buffer.shape)
    expected[[3, 1], :, :width] = values
    written = jax.jit(write, donate_argnums=0)(buffer, values, jnp.array([3, 1]))
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 2, 6, 128)])
@pytest.mark.parametrize("part", [(), (slice(None), slice(2))])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_rows_are_read_alike_on_every_device(shape, part, platform):
    dtype, rows = stored_as("bfloat16", platform), jnp.array([3, 0, 3])
    buffer = jnp.arange(np.prod(shape)).reshape(shape).astype(dtype)
    by_rows = jax.jit(functools.partial(get_by_rows, part=part))(buffer, rows)
    np.testing.assert_array_equal(by_rows, get_at_once(buffer, rows, part))
    assert by_rows.dtype == dtype


def test_get_gathers_small_rows_alone_on_a_tpu():
    def lowered(width):
        buffer = jax.ShapeDtypeStruct((3, width), "bfloat16")
        taken = jax.jit(get).trace(buffer, jnp.array([2, 0]))
        return taken.lower(lowering_platforms=("tpu",)).as_text()

    assert "gather" in lowered(MOST_GATHERED // 2)
    assert "gather" not in lowered(MOST_GATHERED)


def test_stored_as_spares_a_cpu_conversions_of_a_buffer():
    """With jax 0.10, those of bfloat16 take as long for a row as for the whole buffer."""
    values, where = jnp.zeros((2, 3), "bfloat16"), jnp.array([2, 0])

    def compiled(dtype):
        buffer = jnp.zeros((999, 3), dtype)
        again = jax.jit(lambda buffer: get(put(buffer, values, where), where))
        return again.lower(buffer).compile().as_text()

    assert "f32[999" not in compiled(stored_as("bfloat16", "cpu"))
