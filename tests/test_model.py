"""The model: what logits depend on, padding, packing, and rounding; parity is in test_parity."""

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
from cola_jax.model import embed, rms_norm, view
from cola_jax.path import pad_path
from cola_jax.prompts import PADDING, Prompts
from tests import oracle
from tests.execute import batches

POSITIONS = 10  # one padded length and one batch wherever possible: each compiles a model once
WINDOWED = ["mistral-window", "qwen2-window", "qwen3-window", "gemma2", "gemma3"]


CHANGES = [  # parity only proves what changes the logits of these models
    *((variant, {"windows": (None,) * oracle.LAYERS}) for variant in WINDOWED),
    ("llama-linear-rope", {"ropes": (Rope(theta=10000.0),)}),
    ("llama-llama3-rope", {"ropes": (Rope(theta=500.0),)}),
    *(("gemma3", {"norm_offset": 0.0}), ("gemma3", {"embedding_scale": 1.0})),
    *(("gemma3", {"query_scale": 1.0}), ("gemma3", {"activation": "silu"})),
    *(("gemma3", {"ropes": (Rope(theta=theta),) * 2}) for theta in (10000.0, 50.0)),
    *(("gemma2", {cap: None}) for cap in ("attention_softcap", "logit_softcap")),
    *(("olmoe-clip", {"clip_qkv": None}), ("olmoe-clip", {"normalised_routing": False})),
    *(("qwen2-moe", {"normalised_routing": True}), ("qwen3-moe", {"experts_per_token": 2})),
    *(("gemma3", name) for name in ("q_norm", "attention_post_norm", "mlp_post_norm")),
    *(("olmo2", name) for name in ("q_norm", "k_norm", "attention_post_norm")),
    ("gpt-oss", {"swiglu_limit": None}),
    *(("gpt-oss", name) for name in ("sinks", "router_bias", "expert_up_bias", "expert_down_bias")),
    *(("minimax-m2", name) for name in ("router_bias", "q_norm")),
    ("minimax-m2", {"sigmoid_routing": False}),
    ("glm4-moe", {"routed_scale": 1.0}),
    *(("ernie4-5-moe", name) for name in ("router_bias", "down")),
    *(("qwen2-moe", name) for name in ("shared_gate", "down", "expert_down", "router")),
    *(("granite", {name: 1.0}) for name in ("residual_scale", "logit_scale", "query_scale")),
    *(("smollm3", {"layer_ropes": (0,) * 6}), ("exaone4-window", {"layer_ropes": (0,) * 6})),
    ("phi3-longrope", {"rotary_dim": None, "ropes": (Rope(theta=100.0),)}),
    *(("ministral3", {"query_growth": None}), ("ministral3", {"ropes": (Rope(theta=100.0),)})),
    *(("olmo3", {"layer_ropes": (index,) * 6}) for index in (0, 1)),
    *(("gemma4", {"value_norms": False}), ("gemma4", {"ropes": (Rope(theta=50.0),) * 2})),
    *(("gemma4-e", name) for name in ("input_gate", "input_up", "input_norm")),
    ("gemma4-e", {"keys_of": (None, None, None, None, 2, 0)}),
    *(("glm", {"ropes": (Rope(theta=50.0),)}), ("helium", {"ropes": (Rope(theta=9.0),)})),
]


@pytest.mark.parametrize(("variant", "change"), CHANGES)
def test_run_path_depends_on_configs_and_weights(pair, variant, change):
    ours, ids = pair(variant).ours, oracle.random_ids(3)
    if isinstance(change, str):
        stack, *others = ours.layers
        layers = (stack.replace(**{change: getattr(stack, change)[::-1]}), *others)
        changed = ours.replace(layers=layers)
    else:
        changed = ours.replace(config=ModelConfig.from_fields(ours.config.fields() | change))
    path = pad_path(oracle.PATHS["identity"], POSITIONS)
    logits = [cola_jax.run_path(model, ids, path) for model in (changed, ours)]
    assert oracle.relative_error(*logits) > 100 * oracle.TOLERANCE


def row_of(ids):
    return Prompts(ids=ids, positions=np.arange(len(ids)), branch=np.zeros(len(ids), np.int32))


@pytest.mark.parametrize("variant", ["llama-gqa", *WINDOWED, "qwen3.5"])
def test_run_path_keeps_padding_and_continuations_apart(pair, variant):
    """Each packed continuation, and each row of a batch, gets the logits that it has alone."""
    models, path = pair(variant), oracle.PATHS["repeat"]
    packed = batches.branched(6, [4, 1, 3], seed=0).replace(read=None, targets=None)
    rows = [oracle.random_ids(1, tokens, seed=tokens)[0] for tokens in (12, 1)]
    batch = Prompts.stack([packed, *map(row_of, rows)])
    # what stands in the padding must not matter either
    batch = batch.replace(ids=np.where(batch.branch == PADDING, 5, batch.ids))
    out = np.asarray(cola_jax.run_path(models.ours, batch, path))
    branches = [np.flatnonzero((packed.branch == 0) | (packed.branch == j)) for j in (1, 2, 3)]
    for b, tokens in [*((0, tokens) for tokens in branches), (1, np.arange(12)), (2, [0])]:
        alone = oracle.logits(models.theirs, batch.ids[b, tokens][None], path)[0]
        assert oracle.relative_error(out[b, tokens], alone) < oracle.TOLERANCE


def test_view_rotates_far_positions_exactly(pair):
    """Products in low precision, as of matrix units, are off by whole radians there."""
    ropes = Rope(theta=1e4), Rope(theta=1e6)
    config = dataclasses.replace(pair("llama-gqa").ours.config, ropes=ropes)
    positions = np.array([[0, 1, 4097, 131071]], np.int32)
    prompts = Prompts(ids=positions, positions=positions, branch=np.zeros_like(positions))
    tables = view(config, prompts)
    for g, rope in enumerate(config.ropes):
        angles = positions[0, :, None] * rope.frequencies(8).astype(np.float64)
        np.testing.assert_allclose(tables.cos[g, 0], np.cos(angles), atol=1e-2)
        np.testing.assert_allclose(tables.sin[g, 0], np.sin(angles), atol=1e-2)
    program = str(jax.make_jaxpr(lambda p: view(config, p))(prompts))
    assert "dot_general" not in program


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
    x_, weight_ = (jnp.asarray(tensor.float().numpy(), jnp.bfloat16) for tensor in (x, weight))
    results = []
    for kind, offset in ((LlamaRMSNorm, None), (Olmo2RMSNorm, 0.0), (Gemma3RMSNorm, 1.0)):
        module = kind(64, eps=1e-5)
        module.weight = torch.nn.Parameter(weight)
        ours = rms_norm(x_, weight_, 1e-5, offset)
        assert ours.dtype == jnp.bfloat16
        results.append(np.asarray(ours, np.float32))
        different = results[-1] != module(x).detach().float().numpy()
        assert different.mean() < 0.01  # the order of a sum may turn a rounding
    assert (results[0] != results[1]).mean() > 0.1


def test_embed_scales_like_transformers(pair):
    """The scale is rounded to bfloat16, as the weights are, before it is applied."""
    models, ids = pair("gemma3"), oracle.random_ids(2)
    half = cola_jax.load(models.checkpoint, dtype="bfloat16")
    theirs = copy.deepcopy(models.theirs.model.embed_tokens).bfloat16()
    expected = theirs(torch.from_numpy(ids).long()).detach().float().numpy()
    np.testing.assert_array_equal(np.asarray(embed(half, Prompts.plain(ids)), np.float32), expected)
    scaled = np.asarray(half.embedding, np.float32)[ids] * 32**0.5
    assert np.abs(np.asarray(embed(half, Prompts.plain(ids), jnp.float32)) - scaled).max() > 1e-3
