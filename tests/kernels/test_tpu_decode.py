"""The TPU kernel of decode steps, interpreted, against plain attention to gathered blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute import memory, worker
from cola_jax.kernels.decode import DecodeAttention, Rows
from cola_jax.kernels.tpu_decode import TpuDecodeAttention
from cola_jax.params import FULL
from tests.execute import batches

R, PAGES, PROMPT, TEXT, H = 3, 7, 24, 16, 8  # rows, pages, and tokens of a prompt's and a text's
KERNEL = TpuDecodeAttention(interpret=True)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pages(table, ends, tokens, heads, seed):
    """Makes pages that hold NaN where no row of these has written."""
    arrays = [np.full((PAGES + 1, heads, tokens, H), np.nan, np.float32) for _ in range(2)]
    for array in arrays:
        for row, end in zip(table, ends, strict=True):
            for i, page in enumerate(row):
                count = min(max(end - i * tokens, 0), tokens)
                array[page, :, :count] = normal(heads, count, H, seed=seed + page)
    return tuple(map(jnp.asarray, arrays))


@pytest.mark.slow
@settings(max_examples=15)
@given(
    lengths=st.tuples(*[st.integers(1, 2 * PROMPT)] * 2),
    decoded=st.tuples(*[st.integers(1, 2 * TEXT)] * R),
    window=st.one_of(st.just(FULL), st.integers(1, 50)),
    shape=st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 1)]),
    reach=st.sampled_from([32, 48]),
)
def test_kernel_attends_and_writes_as_plain_operations(lengths, decoded, window, shape, reach):
    """Two rows share a prompt; NaN where no row has written is not seen."""
    heads, queries = shape
    nth = [n - 1 for n in decoded]
    prompts = [[4, 6], [4, 6], [1, 2]]
    texts = [[2, 7, 5], [6, 1, 5], [3, 4, 5]]  # of which the last page is not reached
    ends = [lengths[0], *lengths]
    rows = Rows(
        prompt_pages=jnp.array(prompts),
        pages=jnp.array(texts),
        length=jnp.array(ends),
        nth=jnp.array(nth),
        window=jnp.full(1, window, jnp.int32),
    )
    prompt = pages(prompts, ends, PROMPT, heads, 0)
    own = pages(texts, nth, TEXT, heads, 10)
    q = jnp.asarray(normal(R, 1, heads * queries, H, seed=20))
    token = tuple(jnp.asarray(normal(R, 1, heads, H, seed=seed)) for seed in (21, 22))
    (mixed, ours), (plain, theirs) = (
        attend(rows, q, token, prompt, own, (2 * PROMPT, reach))
        for attend in (KERNEL, DecodeAttention())
    )
    np.testing.assert_allclose(mixed, plain, rtol=1e-5, atol=1e-6)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_kernel_lowers_for_a_tpu():
    """With shapes that it takes; interpreted it would not meet the rules of its compiler."""

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype)

    (k, own), q = (array(PAGES, 8, x, 128) for x in (48, 32)), array(R, 1, 24, 128)
    token, scalar, table = array(R, 1, 8, 128), array(R, dtype="int32"), array(R, 4, dtype="int32")
    rows = Rows(table, table, scalar, scalar, array(1, dtype="int32"))
    traced = jax.jit(TpuDecodeAttention(), static_argnums=5).trace(
        rows, q, (token, token), (k, k), (own, own), (128, 32)
    )
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("variant", "data", "tensor"),
    [("gemma3", 1, 1), pytest.param("qwen2-window", 2, 2, marks=pytest.mark.slow)],
)
def test_generate_with_the_kernel_matches_without(pair, monkeypatch, variant, data, tensor):
    """On more tokens than the kernel writes together, and than a page has."""
    found, calls = pair(variant), []
    paths = [[(0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 5), (0, 1, 3, 4, 1, 5)]] * 2
    rest = batches.plain(12, 30), paths
    plain = cola_jax.generate(found.ours, *rest, max_new_tokens=20)
    monkeypatch.setattr(worker, "choose_decode_attention", lambda *_: calls.append(1) or KERNEL)
    limits = memory.CPU._replace(decode_multiple=memory.WRITTEN, decode_page=memory.WRITTEN)
    monkeypatch.setattr(memory, "CPU", limits)
    split = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    out = cola_jax.generate(split, *rest, max_new_tokens=20)
    assert calls
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    np.testing.assert_allclose(out.logprob, plain.logprob, atol=1e-4)
