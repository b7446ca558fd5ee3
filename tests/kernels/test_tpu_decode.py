"""The TPU kernel of decode steps, interpreted, against plain attention to gathered blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute import memory, worker
from cola_jax.kernels import tpu_decode
from cola_jax.kernels.attention import DecodeAttention, Rows
from cola_jax.kernels.tpu_decode import TpuDecodeAttention
from cola_jax.params import FULL
from tests.execute import batches

R, BLOCKS, TOKENS, KEPT, H = 3, 5, 40, 48, 8  # rows, blocks, and tokens of a prompt and a text
KERNEL = TpuDecodeAttention(interpret=True)


@pytest.fixture(autouse=True)
def few_tokens_at_a_time(monkeypatch):
    """Spans of 16 tokens, so that prompts and texts have several, and a part of one."""
    monkeypatch.setattr(tpu_decode, "span", lambda token: tpu_decode.WRITTEN)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks(used, ends, tokens, heads, seed):
    """Makes blocks that hold NaN where no row of these has written."""
    arrays = [np.full((BLOCKS + 1, heads, tokens, H), np.nan, np.float32) for _ in range(2)]
    for array in arrays:
        for block, end in zip(used, ends, strict=True):
            array[block, :, :end] = normal(heads, end, H, seed=seed + block)
    return tuple(map(jnp.asarray, arrays))


@pytest.mark.slow
@settings(max_examples=15)
@given(
    lengths=st.tuples(*[st.integers(1, TOKENS)] * 2),
    decoded=st.tuples(*[st.integers(1, 32)] * R),
    window=st.one_of(st.just(FULL), st.integers(1, 50)),
    shape=st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 1)]),
    reach=st.sampled_from([32, 48]),
)
def test_kernel_attends_and_writes_as_plain_operations(lengths, decoded, window, shape, reach):
    """Two rows share a prompt; NaN where no row has written is not seen."""
    heads, queries = shape
    nth = [n - 1 for n in decoded]
    rows = Rows(
        prompt_block=jnp.array([4, 4, 1]),
        block=jnp.array([2, 0, 3]),
        length=jnp.array([lengths[0], *lengths]),
        nth=jnp.array(nth),
        window=jnp.full(1, window, jnp.int32),
    )
    prompt = blocks([4, 1], lengths, TOKENS, heads, 0)
    own = blocks([2, 0, 3], nth, KEPT, heads, 10)
    q = jnp.asarray(normal(R, 1, heads * queries, H, seed=20))
    token = tuple(jnp.asarray(normal(R, 1, heads, H, seed=seed)) for seed in (21, 22))
    (mixed, ours), (plain, theirs) = (
        attend(rows, q, token, prompt, own, (128, reach)) for attend in (KERNEL, DecodeAttention())
    )
    np.testing.assert_allclose(mixed, plain, rtol=1e-5, atol=1e-6)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_kernel_lowers_for_a_tpu():
    """With shapes that it takes; interpreted it would not meet the rules of its compiler."""

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype)

    (k, own), q = (array(BLOCKS, 8, x, 128) for x in (TOKENS, KEPT)), array(R, 1, 24, 128)
    token, scalar = array(R, 1, 8, 128), array(R, dtype="int32")
    rows = Rows(scalar, scalar, scalar, scalar, array(1, dtype="int32"))
    traced = jax.jit(TpuDecodeAttention(), static_argnums=5).trace(
        rows, q, (token, token), (k, k), (own, own), (128, 32)
    )
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("variant", "data", "tensor"),
    [("gemma3", 1, 1), pytest.param("qwen2-window", 2, 2, marks=pytest.mark.slow)],
)
def test_generate_with_the_kernel_matches_without(pair, monkeypatch, variant, data, tensor):
    """On more tokens than the kernel writes together."""
    found, calls = pair(variant), []
    paths = [[(0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 5), (0, 1, 3, 4, 1, 5)]] * 2
    rest = batches.plain(12, 30), paths
    plain = cola_jax.generate(found.ours, *rest, max_new_tokens=20)
    monkeypatch.setattr(worker, "choose_decode_attention", lambda *_: calls.append(1) or KERNEL)
    limits = memory.CPU._replace(decode_multiple=memory.WRITTEN)
    monkeypatch.setattr(memory, "CPU", limits)
    split = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    out = cola_jax.generate(split, *rest, max_new_tokens=20)
    assert calls
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    np.testing.assert_allclose(out.logprob, plain.logprob, atol=1e-4)
