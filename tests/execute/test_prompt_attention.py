"""The TPU kernel of attention over prompts, interpreted: alone, and in the programs that use it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute import prompt_attention, worker
from cola_jax.execute.prompt_attention import PromptKernel
from cola_jax.execute.random_model import llama
from cola_jax.execute.reference import run_reference
from cola_jax.model import at, at_view, rotate, view, visible
from cola_jax.prompts import PADDING, Prompts
from tests import oracle
from tests.execute import batches

KERNEL = PromptKernel(interpret=True)


def prompts_of(generator, rows, tokens):
    """Draws prompts with continuations packed after them, and padding."""
    ends = np.sort(generator.integers(1, tokens + 1, (rows, 3)), axis=1)
    place = np.arange(tokens)
    branch = (place[None] >= ends[:, :1]).astype(int) + (place[None] >= ends[:, 1:2])
    positions = np.where(branch < 2, place, place - ends[:, 1:2] + ends[:, :1])
    branch = np.where(place[None] >= ends[:, 2:], PADDING, branch)
    ids = np.zeros((rows, tokens), int)
    return jax.tree.map(jnp.asarray, Prompts(ids=ids, positions=positions, branch=branch))


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
    there = at_view(here, read)
    mask = at(visible(config, here, jnp.int32(window or tokens)), read)
    q, k, v = (
        jnp.asarray(generator.normal(size=(rows, n, heads, width)), jnp.float32)
        for n, heads in ((mask.shape[1], config.num_heads), *[(tokens, kv_heads)] * 2)
    )
    ours, theirs = ((x.cos[0], x.sin[0]) for x in (there, here))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_attention, "MOST_BYTES", most_bytes)
        mixed, kept = KERNEL(q, k, v, mask, (ours, theirs), keep)
    turned = rotate(k, *theirs)
    expected = jax.nn.dot_product_attention(rotate(q, *ours), turned, v, mask=mask[:, None])
    assert oracle.relative_error(mixed, expected) < oracle.TOLERANCE
    assert (kept is None) == (not keep)
    for one, other in zip(kept or (), (turned, v), strict=False):
        assert oracle.relative_error(one, other) < oracle.TOLERANCE


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
    assert PromptKernel().serves(group, reads, tokens) == served


@pytest.fixture
def forced(monkeypatch):
    """Makes workers use the kernel, and lists what it was called for."""
    calls = []
    call = PromptKernel.__call__

    def counted(self, q, *rest):
        calls.append((q.shape[1], self.mesh is not None, rest[-1]))
        return call(self, q, *rest)

    monkeypatch.setattr(worker, "choose_attention", lambda *_: KERNEL)
    monkeypatch.setattr(PromptKernel, "__call__", counted)
    return calls


@pytest.mark.parametrize(
    ("variant", "data", "tensor"),
    [
        ("qwen2-window", 1, 1),  # biases, windows in some layers
        ("qwen2-window", 1, 2),
        ("gemma3", 1, 1),  # head norms, a query scale, two rope tables, norms with an offset
        ("olmo2-biases", 1, 1),  # norms over all heads
        ("qwen2-moe-window", 1, 2),
        ("llama-mha", 2, 4),  # all devices
    ],
)
def test_run_paths_with_the_kernel_matches_reference(pair, forced, variant, data, tensor):
    """Packed options, padding, paths that repeat layers, and several buckets."""
    found = pair(variant)
    prompts = Prompts.stack([batches.packed(seed) for seed in range(4)])
    paths = batches.paths_of(4, 3, 0)
    model = found.ours
    if data * tensor > 1:
        model = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    readings = cola_jax.run_paths(model, prompts, paths)
    batches.assert_agree(readings, run_reference(found.ours, prompts, paths))
    assert {split for _, split, _ in forced} == {tensor > 1}
    assert len({reads for reads, _, _ in forced}) > 1  # whole prompts, and the positions read


def test_generate_with_the_kernel_writes_the_same_cache(pair, forced):
    found = pair("qwen2-window")
    prompts = batches.plain(12, 7, 9)
    paths = batches.paths_of(3, 2, 0)
    ours = cola_jax.generate(found.ours, prompts, paths, max_new_tokens=6)
    assert any(keep for _, _, keep in forced)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "choose_attention", lambda *_: None)
        expected = cola_jax.generate(found.ours, prompts, paths, max_new_tokens=6)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    np.testing.assert_allclose(ours.logprob, expected.logprob, atol=1e-5)
