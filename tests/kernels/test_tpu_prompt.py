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


@pytest.mark.parametrize(
    ("group", "reads", "tokens", "served"),
    [
        (4, 2048, 2048, True),
        (4, 16, 96, True),
        (32, 2048, 2048, False),  # more scores than a chip holds
        (3, 216, 216, False),  # no whole tiles
        (3, 1, 128, False),
    ],
)
def test_kernel_serves_whole_blocks(group, reads, tokens, served):
    q, k = jnp.zeros((1, reads, group, 1)), jnp.zeros((1, tokens, 1, 1))
    given = Rotated(q, k, k, (q[:, :, 0],) * 2, (k[:, :, 0],) * 2)
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

    def counted(self, tokens, mask, keep):
        calls.append(Call(mask.shape[1], mask.shape[2], self.mesh is not None, keep))
        return call(self, tokens, mask, keep)

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
