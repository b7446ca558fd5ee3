"""The TPU kernel of experts, interpreted, against plain products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.kernels import tpu_experts
from cola_jax.kernels.tpu_experts import run_experts_on_tpu
from cola_jax.moe import mixture
from cola_jax.params import layer_at, quantize
from tests import oracle

KERNEL = functools.partial(run_experts_on_tpu, interpret=True)


@pytest.fixture
def calls(monkeypatch):
    """List what the kernel was called for."""
    called = []
    call = tpu_experts.call_kernel

    def counted(scalars, x, *weights, **options):
        called.append(x.shape)
        return call(scalars, x, *weights, **options)

    monkeypatch.setattr(tpu_experts, "call_kernel", counted)
    return called


def outputs(model, stack, tokens):
    """Return what the layer 2 of a stack makes of random tokens, with the kernel and without."""
    x = np.random.default_rng(0).normal(size=(1, tokens, model.config.width))
    x = jnp.asarray(x, jnp.float32)
    for kernel in (KERNEL, None):
        layer = layer_at(model.config, 0, stack.replace(experts_kernel=kernel), 2)
        yield mixture(layer, x)


@pytest.mark.parametrize("tokens", [3, 200])
@pytest.mark.parametrize("in_parts", [False, True])
def test_kernel_matches_plain_products(pair, calls, monkeypatch, tokens, in_parts):
    model = pair("qwen2-moe").ours
    if in_parts:  # of the hidden units, as those of large experts
        monkeypatch.setattr(tpu_experts, "LANES", 8)
        monkeypatch.setattr(tpu_experts, "MOST_WEIGHTS", 1)
    ours, expected = outputs(model, model.layers[0], tokens)
    assert oracle.relative_error(ours, expected) < oracle.TOLERANCE
    assert len(calls) == 1


def test_int8_experts_and_biases_are_left_to_plain_products(pair, calls):
    model = pair("qwen2-moe").ours
    eight = {
        name: quantize(getattr(model.layers[0], name), (-2,))
        for name in ("expert_gate", "expert_up", "expert_down")
    }
    ours, expected = outputs(model, model.layers[0].replace(**eight), 40)
    np.testing.assert_array_equal(ours, expected)
    model = pair("gpt-oss").ours
    ours, expected = outputs(model, model.layers[0], 40)
    np.testing.assert_array_equal(ours, expected)
    assert not calls


def test_experts_are_looped_over_without_branches_on_a_gpu(pair):
    """A GPU's host would wait for each of them."""
    layer = layer_at(pair("qwen2-moe").ours.config, 0, pair("qwen2-moe").ours.layers[0], 2)
    x = jnp.zeros((1, 40, 32))
    traced = jax.jit(mixture).trace(layer, x)
    branches = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.case")
        for platform in ("cuda", "cpu")
    }
    assert branches["cpu"] == branches["cuda"] + 1  # the others choose by platform
