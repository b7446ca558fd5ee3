"""Experts: blocks against a plain loop over tokens, and under the transformations of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.moe import (
    MOST_ROWS,
    WIDE_ROWS,
    block_rows,
    mixture,
    multiplies_bfloat16,
    product,
    sort,
)
from cola_jax.params import layer_at
from tests import oracle

run_mixture = jax.jit(mixture)


def layer_of(model, i):
    alone = jax.tree.map(lambda leaf: np.asarray(leaf)[i : i + 1], model.layers[0])
    return layer_at(model.config, 0, alone, i)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def loop_over_tokens(layer, x):
    """Compute what `mixture` does, token by token in float64."""
    names = ("router", "expert_gate", "expert_up", "expert_down")
    router, gates, ups, downs = (np.asarray(getattr(layer, name), np.float64) for name in names)
    out = np.zeros(x.shape)
    for t, row in enumerate(np.asarray(x, np.float64)):
        scores = row @ router
        shares = np.exp(scores) / np.exp(scores).sum()
        chosen = np.argsort(-shares)[: layer.config.experts_per_token]
        total = shares[chosen].sum() if layer.config.normalised_routing else 1.0
        for e in chosen:
            gate = row @ gates[e]
            hidden = gate / (1 + np.exp(-gate)) * (row @ ups[e])
            out[t] += shares[e] / total * hidden @ downs[e]
    return out


@pytest.mark.parametrize("variant", ["olmoe", "olmoe-clip", "qwen2-moe"])
def test_mixture_matches_loop_over_tokens(pair, variant):
    layer = layer_of(pair(variant).ours, 2)
    for tokens in (1, 100):
        x = normal((tokens, 32))
        out = run_mixture(layer, x[None])[0]
        assert oracle.relative_error(out, loop_over_tokens(layer, x)) < oracle.TOLERANCE


def test_layer_at_leaves_experts_in_the_stack(pair):
    """`layer_at` copies no experts, and what it takes means the same as a slice."""
    model = pair("olmoe").ours
    x = normal((1, 9, model.config.width))
    take = jax.jit(layer_at, static_argnums=(0, 1))
    for i in (0, 4):
        here = take(model.config, 0, model.layers[0], i)
        assert here.expert_up.shape == (36, 32, 48)
        np.testing.assert_array_equal(here.router, model.layers[0].router[i])
        expected = run_mixture(layer_of(model, i), x)
        assert oracle.relative_error(run_mixture(here, x), expected) < 1e-6


@pytest.mark.parametrize(("platform", "sums"), [("cpu", "f32"), ("cuda", "bf16"), ("tpu", "bf16")])
def test_product_asks_a_cpu_alone_for_float32(platform, sums, monkeypatch):
    monkeypatch.setattr("cola_jax.moe.multiplies_bfloat16", lambda: True)
    x, weight = jnp.ones((4, 8), jnp.bfloat16), jnp.ones((8, 3), jnp.bfloat16)
    traced = jax.jit(product, static_argnums=0).trace("rd,df->rf", x, weight)
    assert traced.out_info.dtype == jnp.bfloat16
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    (line,) = [line for line in text.splitlines() if "dot_general" in line]
    assert line.endswith(f"(tensor<4x8xbf16>, tensor<8x3xbf16>) -> tensor<4x3x{sums}>")


@pytest.mark.parametrize(("rows", "factors"), [(WIDE_ROWS, "f32"), (WIDE_ROWS - 1, "bf16")])
def test_product_converts_for_many_rows_where_a_cpu_has_no_units(rows, factors, monkeypatch):
    monkeypatch.setattr("cola_jax.moe.multiplies_bfloat16", lambda: False)
    x, weight = jnp.ones((1, rows, 8), jnp.bfloat16), jnp.ones((8, 3), jnp.bfloat16)
    traced = jax.jit(product, static_argnums=0).trace("btd,df->btf", x, weight)
    assert traced.out_info.dtype == jnp.bfloat16
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    (line,) = [line for line in text.splitlines() if "dot_general" in line]
    assert f"(tensor<1x{rows}x8x{factors}>, tensor<8x3x{factors}>)" in line
    assert line.endswith(f"-> tensor<1x{rows}x3xf32>")


@pytest.mark.parametrize(
    ("facts", "has_units"), [("flags : avx2 amx_bf16 amx_tile", True), ("flags : avx2", False)]
)
def test_multiplies_bfloat16_reads_the_flags_of_linux(facts, has_units, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("cola_jax.moe.CPU_FACTS", file)
    assert not multiplies_bfloat16.__wrapped__()  # no such file
    file.write_text(facts)
    assert multiplies_bfloat16.__wrapped__() == has_units


def test_mixture_keeps_tokens_apart(pair):
    """A token depends neither on the experts that others choose nor on their NaNs."""
    layer = layer_of(pair("qwen3-moe").ours, 1)
    x = normal((1, 100, 32))
    mixed = normal(x.shape, seed=1)
    mixed[:, 20] = np.nan
    mixed[:, 4] = x[:, 4]
    out, again = (np.asarray(run_mixture(layer, some)) for some in (x, mixed))
    np.testing.assert_allclose(out[0, 4], again[0, 4], rtol=1e-5, atol=1e-6)
    assert np.isnan(again[0, 20]).all()
    assert np.isfinite(np.delete(again[0], 20, axis=0)).all()


sort_compiled = jax.jit(sort, static_argnums=1)


@settings(max_examples=12)  # each has shapes of its own, which compile
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 9), st.data())
def test_sort_gives_each_pair_a_row_of_its_expert(seed, tokens, experts, data):
    each = data.draw(st.integers(1, experts))
    generator = np.random.default_rng(seed)
    weights = generator.random(experts) ** 4  # some experts are chosen by most tokens
    scores = generator.random((tokens, experts)) * weights
    chosen = np.argsort(scores)[:, :each]
    blocks = jax.tree.map(np.asarray, sort_compiled(chosen.astype(np.int32), experts))
    rows = blocks.source.shape[1]
    assert rows == block_rows(tokens * each, experts) <= MOST_ROWS
    assert rows < 2 * max(1, tokens * each / experts)  # padding is at most a block of each expert
    assert len(np.unique(blocks.place)) == tokens * each
    assert blocks.place.max() // rows + 1 == blocks.used <= len(blocks.expert)
    np.testing.assert_array_equal(blocks.expert[blocks.place // rows], chosen)
    tokens_of = blocks.source.reshape(-1)[blocks.place]
    np.testing.assert_array_equal(tokens_of, np.arange(tokens)[:, None] + 0 * chosen)


def test_run_path_batches_prompts(pair):
    """`vmap` over prompts alone, which `jax.lax.ragged_dot` cannot."""
    model, ids = pair("qwen3-moe").ours, oracle.random_ids(3)
    out = jax.vmap(lambda row: cola_jax.run_path(model, row[None], (0, 4, 4))[0])(ids)
    assert oracle.relative_error(out, cola_jax.run_path(model, ids, (0, 4, 4))) < 1e-5
