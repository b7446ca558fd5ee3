"""The kernel of decode steps, interpreted, against plain attention to gathered blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute import decode_attention, decode_attention_gpu, memory, worker
from cola_jax.execute.decode_attention import DecodeKernel
from cola_jax.execute.decode_attention_gpu import GpuDecodeKernel
from cola_jax.execute.kv_cache import KVBlocks, Past
from cola_jax.execute.plan import Tiles
from cola_jax.params import FULL
from tests.execute import batches

R, BLOCKS, TOKENS, KEPT, H = 3, 5, 40, 48, 8  # rows, blocks, and tokens of a prompt and a text
KERNELS = DecodeKernel(interpret=True), GpuDecodeKernel(interpret=True)


@pytest.fixture(autouse=True)
def few_tokens_at_a_time(monkeypatch):
    """Spans of 16 tokens, so that prompts and texts have several, and a part of one."""
    monkeypatch.setattr(decode_attention, "SPAN_BYTES", 1)
    monkeypatch.setattr(decode_attention_gpu, "SPAN", 16)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks(used, ends, tokens, heads, seed):
    """Makes blocks that hold NaN where no row of these has written."""
    arrays = [np.full((BLOCKS + 1, heads, tokens, H), np.nan, np.float32) for _ in range(2)]
    for array in arrays:
        for block, end in zip(used, ends, strict=True):
            array[block, :, :end] = normal(heads, end, H, seed=seed + block)
    return KVBlocks(*map(jnp.asarray, arrays))


def attend_both_ways(kernel, lengths, decoded, window, shape, reach):
    """Returns what plain attention and the kernel mix, and the blocks after each."""
    heads, queries = shape
    prompt_block, block = jnp.array([4, 4, 1]), jnp.array([2, 0, 3])
    lengths = [lengths[0], lengths[0], lengths[1]]  # two rows share a prompt
    written = [n - 1 for n in decoded]
    prompt = blocks([4, 1], lengths[1:], TOKENS, heads, 0)
    own = blocks([2, 0, 3], written, KEPT, heads, 10)
    row = jnp.arange(R)
    tile = Tiles(jnp.int32(0), row, row, row, block, prompt_block)
    past = Past(prompt, jnp.array(lengths), jnp.array(decoded))
    q = jnp.asarray(normal(R, 1, heads * queries, H, seed=20))
    k, v = (jnp.asarray(normal(R, 1, heads, H, seed=seed)) for seed in (21, 22))
    after = past.write(own, k, v, tile)
    plain = past.attention(after, tile, jnp.int32(window), reach)(q)
    mixed, ours = past.attend(kernel, own, tile, jnp.int32(window), reach, (q, k, v))
    return (plain, after), (mixed, ours)


@settings(max_examples=15, deadline=None)
@given(
    kernel=st.sampled_from(KERNELS),
    lengths=st.tuples(*[st.integers(1, TOKENS)] * 2),
    decoded=st.tuples(*[st.integers(1, 32)] * R),
    window=st.one_of(st.just(FULL), st.integers(1, 50)),
    shape=st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 1)]),
    reach=st.sampled_from([32, 48]),
)
def test_kernels_attend_and_write_as_plain_operations(
    kernel, lengths, decoded, window, shape, reach
):
    """NaN in slots that no row has written is not seen."""
    theirs, ours = attend_both_ways(kernel, lengths, decoded, window, shape, reach)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    for got, expected in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_kernel_reads_no_span_that_is_not_seen():
    """Steps outside the tokens that a row sees ask for the nearest span, which is there already."""
    asked = [
        [int(jnp.clip(i, *decode_attention.seen_spans(seen, 16))) for i in range(4)]
        for seen in ((0, 10), (0, 33), (20, 33), (40, 33))
    ]
    assert asked == [[0, 0, 0, 0], [0, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("kernel", "platform", "call"),
    [
        (DecodeKernel(), "tpu", "tpu_custom_call"),
        pytest.param(
            *(GpuDecodeKernel(), "cuda", "gpu.triton"),
            marks=pytest.mark.skipif(
                jax.__version_info__ >= (0, 11), reason="later JAX lowers it where a GPU is"
            ),
        ),
    ],
)
def test_kernels_lower_for_their_devices(kernel, platform, call):
    """With shapes that these take; interpreted they would not meet the rules of their compilers."""

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype)

    (k, own), q = (array(BLOCKS, 8, x, 128) for x in (TOKENS, KEPT)), array(R, 1, 24, 128)
    token = array(R, 1, 8, 128)
    scalar = array(R, dtype="int32")
    rows = decode_attention.Rows(scalar, scalar, scalar, scalar, array(1, dtype="int32"))
    traced = jax.jit(kernel, static_argnums=5).trace(
        rows, q, (token, token), (k, k), (own, own), 32
    )
    assert call in traced.lower(lowering_platforms=(platform,)).as_text()


NEW = 20  # more than the kernel writes together


@pytest.fixture(params=KERNELS, ids=["tpu", "gpu"])
def with_kernel(monkeypatch, request):
    """Decodes by the kernel, as a TPU or a GPU would."""
    calls = []

    def choose(*_):
        calls.append(1)
        return request.param

    monkeypatch.setattr(worker, "choose_decode_kernel", choose)
    monkeypatch.setattr(memory, "MULTIPLE", (memory.WRITTEN,) * 2)
    yield
    assert calls


def generate(model):
    paths = [[(0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 5), (0, 1, 3, 4, 1, 5)]] * 2
    return cola_jax.generate(model, batches.plain(12, 30), paths, max_new_tokens=NEW)


@pytest.fixture
def plain(pair, variant):
    """What is decoded without a kernel."""
    return generate(pair(variant).ours)


@pytest.mark.parametrize(("variant", "data", "tensor"), [("gemma3", 1, 1), ("qwen2-window", 2, 2)])
@pytest.mark.usefixtures("plain", "with_kernel")  # in this order
def test_generate_with_a_kernel_matches_without(pair, variant, data, tensor, plain):
    found = pair(variant)
    out = generate(cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor)))
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    np.testing.assert_allclose(out.logprob, plain.logprob, atol=1e-4)
