"""Experts: blocks against a plain loop, and what transformations of JAX make of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.moe import MOST_ROWS, block_rows, mixture, sort
from cola_jax.params import layer_at
from cola_jax.path import pad_path
from tests import oracle

MIXTURES = ["olmoe", "olmoe-clip", "qwen2-moe", "qwen3-moe"]


def layer_of(model, i):
    alone = jax.tree.map(lambda leaf: leaf[i : i + 1], model.layers)
    return layer_at(model.config, alone, i)


def by_loop(config, layer, x):
    """What `mixture` computes, token by token in float64."""
    weights = {
        name: np.asarray(leaf, np.float64) for name, leaf in vars(layer).items() if leaf is not None
    }
    out = np.zeros(x.shape)
    for t, row in enumerate(np.asarray(x, np.float64)):
        scores = row @ weights["router"]
        shares = np.exp(scores) / np.exp(scores).sum()
        chosen = np.argsort(-shares)[: config.experts_per_token]
        total = shares[chosen].sum() if config.normalised_routing else 1.0
        for e in chosen:
            gate, up = row @ weights["expert_gate"][e], row @ weights["expert_up"][e]
            hidden = gate / (1 + np.exp(-gate)) * up
            out[t] += shares[e] / total * hidden @ weights["expert_down"][e]
    return out


@pytest.mark.parametrize("tokens", [1, 7, 100])
@pytest.mark.parametrize("variant", MIXTURES)
def test_a_mixture_is_what_a_loop_over_tokens_makes(pair, variant, tokens):
    config, layer = pair(variant).ours.config, layer_of(pair(variant).ours, 2)
    x = jax.random.normal(jax.random.key(0), (tokens, config.width))
    out = jax.jit(mixture, static_argnums=0)(config, layer, x[None])[0]
    assert oracle.relative_error(out, by_loop(config, layer, x)) < oracle.TOLERANCE


def test_experts_are_found_in_the_stack(pair):
    """`layer_at` copies no experts; what it takes means the same as a slice."""
    model = pair("olmoe").ours
    x = jax.random.normal(jax.random.key(0), (1, 9, model.config.width))
    for i in (0, 4):
        here = layer_at(model.config, model.layers, jnp.int32(i))
        assert here.expert_up.shape == (36, 32, 48)
        np.testing.assert_array_equal(here.router, model.layers.router[i])
        expected = mixture(model.config, layer_of(model, i), x)
        assert oracle.relative_error(mixture(model.config, here, x), expected) < 1e-6


def test_every_token_may_choose_the_same_experts(pair):
    """The most uneven choice: three experts get every row, three get none."""
    config, layer = pair("olmoe").ours.config, layer_of(pair("olmoe").ours, 0)
    x = jnp.abs(jax.random.normal(jax.random.key(0), (40, config.width)))
    router = jnp.tile(jnp.array([2.0, -1.0, 1.0, -2.0, 0.0, -3.0]) / 30, (config.width, 1))
    layer = layer.replace(router=router)
    out = mixture(config, layer, x[None])[0]
    assert oracle.relative_error(out, by_loop(config, layer, x)) < oracle.TOLERANCE


def test_a_token_does_not_see_the_others(pair):
    """Neither which experts they choose, nor values that are not finite."""
    config, layer = pair("qwen3-moe").ours.config, layer_of(pair("qwen3-moe").ours, 1)
    x = jax.random.normal(jax.random.key(0), (1, 30, config.width))
    others = jax.random.normal(jax.random.key(1), x.shape).at[:, 20].set(jnp.nan)
    mixed = others.at[:, 4].set(x[:, 4])
    run = jax.jit(mixture, static_argnums=0)
    out, again = run(config, layer, x), run(config, layer, mixed)
    np.testing.assert_allclose(out[0, 4], again[0, 4], rtol=1e-5, atol=1e-6)
    assert np.isnan(again[0, 20]).all()
    assert np.isfinite(np.delete(again[0], 20, axis=0)).all()


@settings(max_examples=12)  # each has shapes of its own, which compile
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 9), st.data())
def test_blocks_hold_every_pair_once_and_one_expert_each(seed, tokens, experts, data):
    each = data.draw(st.integers(1, experts))
    generator = np.random.default_rng(seed)
    weights = generator.random(experts) ** 4  # some experts are chosen by most tokens
    chosen = np.array(
        [np.argsort(generator.random(experts) * weights)[:each] for _ in range(tokens)]
    )
    blocks = sort(jnp.asarray(chosen, jnp.int32), experts)
    rows = blocks.source.shape[1]
    assert rows == block_rows(tokens * each, experts)
    assert len(np.unique(blocks.place)) == tokens * each
    assert np.asarray(blocks.place).max() // rows + 1 == blocks.used <= len(blocks.expert)
    np.testing.assert_array_equal(blocks.expert[blocks.place // rows], chosen)
    tokens_of = np.asarray(blocks.source).reshape(-1)[blocks.place]
    np.testing.assert_array_equal(tokens_of, np.arange(tokens)[:, None] + 0 * chosen)


@pytest.mark.parametrize(("pairs", "experts"), [(1, 64), (64, 64), (768, 64), (10**6, 64), (9, 2)])
def test_blocks_are_few(pairs, experts):
    """The work is bounded by the rows that there are, whatever experts there are beside them."""
    rows = block_rows(pairs, experts)
    assert rows <= MOST_ROWS
    assert rows & (rows - 1) == 0
    blocks = min(pairs, pairs // rows + experts)
    assert blocks * rows <= pairs + experts * rows
    assert rows < 2 * max(1, pairs / experts)


@pytest.mark.parametrize("variant", MIXTURES[1:])
def test_gradients_are_those_of_differences(pair, variant):
    config, layer = pair(variant).ours.config, layer_of(pair(variant).ours, 3)
    x = jax.random.normal(jax.random.key(0), (2, 5, config.width))
    towards = jax.random.normal(jax.random.key(1), x.shape)

    @jax.jit
    def loss(layer, x):
        return jnp.vdot(mixture(config, layer, x), towards)

    of_layer, of_x = jax.grad(loss, (0, 1), allow_int=True)(layer, x)
    for name in ("router", "expert_gate", "expert_up", "expert_down"):
        weight, slope = getattr(layer, name), getattr(of_layer, name)
        way = jax.random.normal(jax.random.key(2), weight.shape) * 1e-3
        ahead, behind = (loss(layer.replace(**{name: weight + s * way}), x) for s in (1, -1))
        np.testing.assert_allclose(jnp.vdot(slope, way), (ahead - behind) / 2, rtol=2e-2, atol=1e-5)
    way = towards * 1e-3
    ahead, behind = (loss(layer, x + s * way) for s in (1, -1))
    np.testing.assert_allclose(jnp.vdot(of_x, way), (ahead - behind) / 2, rtol=2e-2, atol=1e-5)


def test_paths_are_batched_and_differentiated(pair):
    """`run_path` promises both `vmap` over paths and `grad`, experts or not."""
    model, ids = pair("qwen2-moe").ours, oracle.random_ids(2)
    paths = jnp.stack([pad_path(oracle.PATHS[kind], 6) for kind in ("skip", "reordered")])
    out = jax.vmap(lambda path: cola_jax.run_path(model, ids, path))(paths)
    for path, logits in zip(paths, out, strict=True):
        assert oracle.relative_error(logits, cola_jax.run_path(model, ids, path)) < 1e-5

    def loss(router, path):
        layers = model.layers.replace(router=router)
        return jnp.sum(cola_jax.run_path(model.replace(layers=layers), ids, path) ** 2)

    slopes = jax.vmap(jax.grad(loss), (None, 0))(model.layers.router, paths)
    used = np.abs(slopes).max(axis=(2, 3)) > 0
    np.testing.assert_array_equal(used, [[1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]])
    one = jax.grad(loss)(model.layers.router, paths[0])
    assert oracle.relative_error(slopes[0], one) < 1e-4


def test_prompts_are_batched_under_one_path(pair):
    """`vmap` over prompts alone, which `jax.lax.ragged_dot` cannot."""
    model, ids = pair("qwen3-moe").ours, oracle.random_ids(3)
    out = jax.vmap(lambda row: cola_jax.run_path(model, row[None], (0, 4, 4))[0])(jnp.asarray(ids))
    assert oracle.relative_error(out, cola_jax.run_path(model, ids, (0, 4, 4))) < 1e-5


def test_facts_of_experts_are_checked(pair):
    config = pair("olmoe").ours.config
    with pytest.raises(ValueError, match="a token cannot use 7 of 6 experts"):
        dataclasses.replace(config, experts_per_token=7)
