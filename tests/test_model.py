"""The model against transformers: every family on every kind of path, padding, packing."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

import cola_jax
from cola_jax.config import ModelConfig, Rope
from cola_jax.model import embed, rms_norm, view, visible
from cola_jax.params import FULL
from cola_jax.path import pad_path
from cola_jax.prompts import PADDING, Prompts
from tests import oracle
from tests.execute import batches

POSITIONS = 10  # one padded length and one batch wherever possible: each compiles a model once
WINDOWED = ["llama-gqa", "mistral-window", "qwen2-window", "qwen3-window", "gemma3"]


@pytest.mark.parametrize("kind", oracle.PATHS)
@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_run_path_matches_transformers(pair, variant, kind):
    models, path = pair(variant), oracle.PATHS[kind]
    ids = oracle.random_ids(3)
    ours = cola_jax.run_path(models.ours, ids, pad_path(path, POSITIONS))
    assert ours.dtype == jnp.float32
    assert oracle.relative_error(ours, oracle.logits(models.theirs, ids, path)) < oracle.TOLERANCE


def test_oracle_logits_follow_the_path(pair):
    """An oracle that ignores the path, or leaves windows in place, could agree by accident."""
    theirs, ids = pair("qwen2-window").theirs, oracle.random_ids(2)
    results = [oracle.logits(theirs, ids, path) for path in oracle.PATHS.values()]
    for i, one in enumerate(results):
        assert all(oracle.relative_error(one, other) > 0.1 for other in results[i + 1 :])
    moved = oracle.logits(theirs, ids, (3, 0))  # layer 3 has a window, layer 0 has none
    types = theirs.config.layer_types
    theirs.config.layer_types = ["full_attention"] * len(types)
    try:
        assert oracle.relative_error(oracle.logits(theirs, ids, (3, 0)), moved) > 0.1
    finally:
        theirs.config.layer_types = types
    assert np.array_equal(oracle.logits(theirs, ids, oracle.PATHS["identity"]), results[0])


CHANGES = [  # parity only proves what changes the logits of these models
    *((variant, {"windows": (None,) * oracle.LAYERS}) for variant in WINDOWED[1:]),
    ("llama-linear-rope", {"ropes": (Rope(theta=10000.0),)}),
    ("llama-llama3-rope", {"ropes": (Rope(theta=500.0),)}),
    *(("gemma3", {"norm_offset": 0.0}), ("gemma3", {"embedding_scale": 1.0})),
    *(("gemma3", {"query_scale": 1.0}), ("gemma3", {"activation": "silu"})),
    *(("gemma3", {"ropes": (Rope(theta=theta),) * 2}) for theta in (10000.0, 50.0)),
    *(("olmoe-clip", {"clip_qkv": None}), ("olmoe-clip", {"normalised_routing": False})),
    *(("qwen2-moe", {"normalised_routing": True}), ("qwen3-moe", {"experts_per_token": 2})),
    *(("gemma3", name) for name in ("q_norm", "attention_post_norm", "mlp_post_norm")),
    *(("olmo2", name) for name in ("q_norm", "k_norm", "attention_post_norm")),
    *(("qwen2-moe", name) for name in ("shared_gate", "down", "expert_down", "router")),
]


@pytest.mark.parametrize(("variant", "change"), CHANGES)
def test_run_path_depends_on_configs_and_weights(pair, variant, change):
    ours, ids = pair(variant).ours, oracle.random_ids(3)
    if isinstance(change, str):
        weight = getattr(ours.layers, change)[::-1]
        changed = ours.replace(layers=ours.layers.replace(**{change: weight}))
    else:
        changed = ours.replace(config=dataclasses.replace(ours.config, **change))
    path = pad_path(oracle.PATHS["identity"], POSITIONS)
    logits = [cola_jax.run_path(model, ids, path) for model in (changed, ours)]
    assert oracle.relative_error(*logits) > 100 * oracle.TOLERANCE


@pytest.mark.parametrize("variant", WINDOWED)
def test_run_path_ignores_padding(pair, variant):
    models, path = pair(variant), oracle.PATHS["repeat"]
    rows = [oracle.random_ids(1, tokens, seed=tokens)[0] for tokens in (12, 7, 1)]
    batch = Prompts.stack([row_of(ids) for ids in rows])
    # what stands in the padding must not matter either
    batch = batch.replace(ids=np.where(batch.branch == PADDING, 5, batch.ids))
    out = cola_jax.run_path(models.ours, batch, path)
    for b, ids in enumerate(rows):
        alone = oracle.logits(models.theirs, ids[None], path)[0]
        assert oracle.relative_error(out[b, : len(ids)], alone) < oracle.TOLERANCE


@pytest.mark.parametrize("variant", WINDOWED)
def test_run_path_packed_matches_separate(pair, variant):
    models, path = pair(variant), oracle.PATHS["reordered"]
    packed = batches.branched(6, [4, 1, 3], seed=0).replace(read=None, targets=None)
    batch = Prompts.stack([packed, row_of(oracle.random_ids(1, 9)[0])])
    out = np.asarray(cola_jax.run_path(models.ours, batch, path)[0])
    for j in (1, 2, 3):
        tokens = np.flatnonzero((packed.branch == 0) | (packed.branch == j))
        alone = oracle.logits(models.theirs, packed.ids[tokens][None], path)[0]
        assert oracle.relative_error(out[tokens], alone) < oracle.TOLERANCE


def row_of(ids):
    return Prompts(ids=ids, positions=np.arange(len(ids)), branch=np.zeros(len(ids), np.int32))


def test_visible_matches_definition(pair):
    config = pair("mistral-window").ours.config
    generator = np.random.default_rng(0)
    branch = generator.integers(-1, 3, (2, 9)).astype(np.int32)
    positions = generator.integers(0, 12, (2, 9)).astype(np.int32)
    prompts = Prompts(ids=np.zeros_like(branch), positions=positions, branch=branch)
    for window in (1, 4, FULL):
        mask = np.asarray(visible(config, view(config, prompts), jnp.int32(window)))
        for b, t, s in np.ndindex(2, 9, 9):
            same = branch[b, s] in (0, branch[b, t])
            near = positions[b, t] - positions[b, s] < window
            assert mask[b, t, s] == (s <= t and same and near)


def test_view_rotates_far_positions_exactly():
    """Products in low precision, as of matrix units, are off by whole radians there."""
    sizes = {"vocab_size": 97, "num_layers": 2, "width": 32, "num_heads": 4, "num_kv_heads": 2}
    others = {"head_dim": 8, "mlp_width": 48, "context": 1 << 17, "norm_eps": 1e-5, "tied": True}
    ropes = {"ropes": (Rope(theta=1e4), Rope(theta=1e6)), "layer_ropes": (0, 1)}
    config = ModelConfig(**sizes, **others, **ropes, windows=(None, None))
    positions = np.array([[0, 1, 4097, 131071]], np.int32)
    prompts = Prompts(ids=positions, positions=positions, branch=np.zeros_like(positions))
    tables = view(config, prompts)
    for g, rope in enumerate(config.ropes):
        angles = positions[0, :, None] * rope.frequencies(8).astype(np.float64)
        np.testing.assert_allclose(tables.cos[g, 0], np.cos(angles), atol=1e-2)
        np.testing.assert_allclose(tables.sin[g, 0], np.sin(angles), atol=1e-2)
    program = str(jax.make_jaxpr(lambda p: view(config, p))(prompts))
    assert "dot_general" not in program


def test_run_path_moves_ropes_with_layers(pair):
    """A model with two rope tables must use each layer's own, wherever the layer runs."""
    models, default = pair("llama-linear-rope"), Rope(theta=10000.0)
    config, ids = models.ours.config, oracle.random_ids(3)
    two = {"ropes": (*config.ropes, default), "layer_ropes": (0, 0, 0, 1, 1, 1)}
    mixed = models.ours.replace(config=dataclasses.replace(config, **two))
    plain = models.ours.replace(config=dataclasses.replace(config, ropes=(default,)))
    first, second = pad_path((2, 0, 2), POSITIONS), pad_path((3, 5), POSITIONS)
    expected = oracle.logits(models.theirs, ids, (2, 0, 2))
    assert oracle.relative_error(cola_jax.run_path(mixed, ids, first), expected) < oracle.TOLERANCE
    expected = cola_jax.run_path(plain, ids, second)
    assert oracle.relative_error(cola_jax.run_path(mixed, ids, second), expected) < oracle.TOLERANCE


def test_run_path_bfloat16_stays_close(pair):
    models, ids, identity = pair("llama-biases"), oracle.random_ids(3), oracle.PATHS["identity"]
    half, path = cola_jax.load(models.checkpoint, dtype="bfloat16"), pad_path(identity, POSITIONS)
    out = cola_jax.run_path(half, ids, path)
    assert out.dtype == jnp.float32
    assert oracle.relative_error(out, oracle.logits(models.theirs, ids, identity)) < 0.1
    # float32 activations on bfloat16 weights: only the weights are rounded
    exact = cola_jax.run_path(half, ids, path, dtype=jnp.float32)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, half)
    assert oracle.relative_error(exact, cola_jax.run_path(wide, ids, path)) < oracle.TOLERANCE


def test_rms_norm_rounds_like_transformers():
    """In bfloat16 it shows whether a weight is applied before or after the cast."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 64, generator=generator).bfloat16()
    weight = (0.3 * torch.randn(64, generator=generator)).bfloat16()
    results = []
    for kind, offset in ((LlamaRMSNorm, None), (Olmo2RMSNorm, 0.0), (Gemma3RMSNorm, 1.0)):
        module = kind(64, eps=1e-5)
        module.weight = torch.nn.Parameter(weight)
        theirs = module(x).detach().float().numpy()
        ours = rms_norm(bfloat16(x), bfloat16(weight), 1e-5, offset)
        assert ours.dtype == jnp.bfloat16
        different = np.asarray(ours, np.float32) != theirs
        assert different.mean() < 0.01  # the order of a sum may turn a rounding
        results.append(np.asarray(ours, np.float32))
    assert (results[0] != results[1]).mean() > 0.1


def bfloat16(tensor):
    return jnp.asarray(tensor.float().numpy(), jnp.bfloat16)


def test_embed_scales_like_transformers(pair):
    """The scale is rounded to bfloat16, as the weights are, before it is applied."""
    models, ids = pair("gemma3"), oracle.random_ids(2)
    half = cola_jax.load(models.checkpoint, dtype="bfloat16")
    theirs = copy.deepcopy(models.theirs.model.embed_tokens).bfloat16()
    expected = theirs(torch.from_numpy(ids).long()).detach().float().numpy()
    np.testing.assert_array_equal(np.asarray(embed(half, jnp.asarray(ids)), np.float32), expected)
    scaled = np.asarray(half.embedding, np.float32)[ids] * 32**0.5
    assert np.abs(np.asarray(embed(half, jnp.asarray(ids), jnp.float32)) - scaled).max() > 1e-3


def test_a_model_describes_itself(tiny_checkpoint):
    model = cola_jax.load(tiny_checkpoint)
    text = repr(model)
    assert len(text.splitlines()) <= 5
    for part in ("5 layers", f"width {model.config.width}", "float32", model.checkpoint):
        assert part in text
    assert repr(jax.tree.map(lambda leaf: None, model)).startswith("Model(5 layers")
