"""The TPU kernel of attention over prompts, interpreted: alone, and in the programs that use it."""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.attention import Labels, Seen
from cola_jax.execute import worker
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import make_workers
from cola_jax.kernels import tpu_prompt
from cola_jax.kernels.attention import PromptAttention, Rotated
from cola_jax.kernels.tpu_prompt import TpuPromptAttention
from cola_jax.model import seen_in, view, view_at_positions
from cola_jax.prompts import PADDING, Prompts
from experiments.shapes import llama
from tests import oracle
from tests.execute import batches
from tests.execute.one_by_one import run_reference
from tests.test_attention import packed

KERNEL = TpuPromptAttention(interpret=True)


def prompts_of(generator, rows, tokens):
    """Draws prompts with continuations packed after them, and padding."""
    ends = np.sort(generator.integers(1, tokens + 1, (rows, 3)), axis=1)
    place = np.arange(tokens)
    branch = (place[None] >= ends[:, :1]).astype(int) + (place[None] >= ends[:, 1:2])
    positions = np.where(branch < 2, place, place - ends[:, 1:2] + ends[:, :1])
    branch = np.where(place[None] >= ends[:, 2:], PADDING, branch)
    ids = np.zeros((rows, tokens), int)
    return jax.tree.map(jnp.asarray, Prompts(ids=ids, positions=positions, branch=branch))


@pytest.mark.slow
@settings(max_examples=12)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 3),
    tokens=st.sampled_from([1, 7, 24, 128, 256]),
    reads=st.sampled_from([None, 1, 16]),
    shape=st.sampled_from([(1, 1, 8), (2, 3, 8), (4, 1, 16), (2, 2, 128)]),
    window=st.sampled_from([None, 1, 5]),
    most_bytes=st.sampled_from([1, 2**23]),
    keep=st.booleans(),
)
def test_kernel_matches_attention(seed, rows, tokens, reads, shape, window, most_bytes, keep):
    generator = np.random.default_rng(seed)
    kv_heads, group, width = shape
    config = llama(1, 8, kv_heads * group, kv_heads, 8, 8, head_dim=width)
    config = dataclasses.replace(config, windows=(window,))
    here = view(config, prompts_of(generator, rows, tokens))
    read = None if reads is None else jnp.asarray(generator.integers(0, tokens, (rows, reads)))
    there = view_at_positions(here, read)
    seen = seen_in(config, here, jnp.int32(window or tokens), read)
    q, k, v = (
        jnp.asarray(generator.normal(size=(rows, n, heads, width)), jnp.float32)
        for n, heads in ((reads or tokens, kv_heads * group), *[(tokens, kv_heads)] * 2)
    )
    ours, theirs = ((x.cos[0], x.sin[0]) for x in (there, here))
    given = Rotated(q, k, v, ours, theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu_prompt, "MOST_BYTES", most_bytes)
        mixed, kept = KERNEL.over(given, seen, keep)
    expected, turned = PromptAttention().over(given, seen, keep)
    assert oracle.relative_error(mixed, expected) < oracle.TOLERANCE
    for one, other in zip(kept, turned, strict=True):
        assert not keep or oracle.relative_error(one, other) < oracle.TOLERANCE


@pytest.mark.parametrize("chunk", [64, 256])  # of which 170 tokens need three, and one
@pytest.mark.parametrize("reads", [None, 5])
@pytest.mark.parametrize(("keep", "prefix"), [(True, 0), (False, 0), (True, 40)])
def test_kernel_attends_by_blocks(monkeypatch, chunk, reads, keep, prefix):
    """Several prompts in a row, with a window, a softcap and sinks."""
    sizes = {"QUERY_BLOCK": 16, "MOST_KEYS": 32, "KEY_BLOCK": 32, "CHUNK": chunk}
    sizes["LONG_KEY_BLOCK"] = 32
    for name, size in sizes.items():
        monkeypatch.setattr(tpu_prompt, name, size)
    generator = np.random.default_rng(3)
    tokens = 170
    labels = packed(generator, 2, tokens)
    if prefix:
        labels = labels._replace(row=jnp.zeros_like(labels.row))
    places = jnp.asarray(generator.integers(0, 100, (2, reads or tokens)))
    places = places if reads else jnp.broadcast_to(jnp.arange(tokens), places.shape)
    queries = Labels(*(jnp.take_along_axis(x, places, axis=1) for x in labels))
    seen = Seen(queries, labels, jnp.int32(20 + prefix))

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    def angles(count):
        turns = normal(2, count, 4)
        return jnp.cos(turns), jnp.sin(turns)

    q = normal(2, places.shape[1], 4, 8)
    k, v = (normal(2, tokens, 2, 8) for _ in range(2))
    of_queries, of_keys = (angles(count) for count in (places.shape[1], tokens))
    given = Rotated(q, k, v, of_queries, of_keys, normal(4))
    before = normal(2, 2, prefix, 8), normal(2, 2, prefix, 8)
    results = []
    for kernel in (KERNEL, PromptAttention()):
        kernel = dataclasses.replace(kernel, softcap=2.0)
        if prefix:
            results.append(kernel.after(before, given, seen, keep))
        else:
            results.append(kernel.over(given, seen, keep))
    (mixed, kept), (expected, turned) = results
    seeing = np.asarray(queries.row) != PADDING
    assert oracle.relative_error(mixed[seeing], expected[seeing]) < oracle.TOLERANCE
    for ours, plain in zip(kept, turned, strict=True):
        assert not keep or oracle.relative_error(ours, plain) < oracle.TOLERANCE


@pytest.mark.parametrize(
    ("reads", "tokens", "served"),
    [(2048, 2048, True), (16, 96, True), (216, 216, False), (1, 128, False)],
)
def test_kernel_serves_whole_tiles(reads, tokens, served):
    q = jnp.zeros((1, reads, 4, 1))
    k = jnp.zeros((1, tokens, 1, 1))
    given = Rotated(q, k, k, (q[:, :, 0], q[:, :, 0]), (k[:, :, 0], k[:, :, 0]))
    assert TpuPromptAttention().serves(given) == served
    if tokens > 96:
        assert TpuPromptAttention().serves(given._replace(k=k[:, 96:]), before=96) == served


class Call(NamedTuple):
    """A call of the kernel in a program."""

    reads: int
    tokens: int
    split: bool
    keep: bool


@pytest.fixture
def forced(monkeypatch):
    """Makes workers use the kernel, and lists what it was called for."""
    calls, call = [], TpuPromptAttention.call

    def counted(self, tokens, seen, keep):
        sizes = seen.queries.order.shape[1], seen.keys.order.shape[1]
        calls.append(Call(*sizes, self.mesh is not None, keep))
        return call(self, tokens, seen, keep)

    monkeypatch.setattr(worker, "choose_prompt_attention", lambda *_: KERNEL)
    monkeypatch.setattr(TpuPromptAttention, "call", counted)
    return calls


@pytest.mark.parametrize(
    ("variant", "data", "tensor"),
    [
        ("gemma3", 1, 1),
        pytest.param("qwen2-moe-window", 1, 2, marks=pytest.mark.slow),
        pytest.param("llama-mha", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_run_paths_with_the_kernel_matches_reference(pair, forced, variant, data, tensor):
    """Packed options, padding, paths that repeat layers, and tiles of several shapes."""
    found, paths = pair(variant), batches.paths_of(4, 3, 0)
    prompts = Prompts.stack([batches.packed(seed) for seed in range(4)])
    model = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    readings = cola_jax.run_paths(model, prompts, paths)
    batches.assert_agree(readings, run_reference(found.ours, prompts, paths))
    assert {call.split for call in forced} == {tensor > 1}
    assert len({call.reads for call in forced}) > 1  # whole prompts, and the positions read


def test_prompts_continue_what_they_share_with_the_kernel(pair, forced):
    found, prompts, size = pair("qwen2-window"), batches.alike(40), 40
    paths = pad_paths(batches.paths_of(4, 3, 0), 4, oracle.LAYERS)
    model = cola_jax.load(found.checkpoint, mesh=batches.mesh(1, 2))
    workload = Workload(*paths.shape[1:], prefix=size)

    (on,) = make_workers(model)
    with contextlib.closing(PathEvaluator(on, prompts, workload)) as evaluate:
        readings = evaluate(paths)
    batches.assert_agree(readings, run_reference(found.ours, prompts, paths))
    assert {call.tokens > size for call in forced if not call.keep} == {True}


@pytest.mark.slow
def test_generate_with_the_kernel_writes_the_same_cache(pair, forced, monkeypatch):
    model, paths = pair("qwen2-window").ours, batches.paths_of(3, 2, 0)
    prompts = batches.plain(12, 7, 9, shared=40)
    ours = cola_jax.generate(model, prompts, paths, max_new_tokens=6)
    assert any(call.tokens > call.reads > 1 for call in forced)
    monkeypatch.setattr(worker, "choose_prompt_attention", lambda *_: PromptAttention())
    expected = cola_jax.generate(model, prompts, paths, max_new_tokens=6)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    np.testing.assert_allclose(ours.logprob, expected.logprob, atol=1e-5)
