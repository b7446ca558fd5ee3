"""Layers with experts: each token goes through the few that its router picks, and no others.

`mixture` sorts (token, expert) pairs by expert and multiplies blocks of rows by the weights of
their expert, one block after the other. `jax.lax.ragged_dot` would do the same in one call, but
multiplies every row by every expert: on a CPU, and as libtpu 0.0.52 compiles it for a TPU v5e.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cola_jax.config import LayerConfig
from cola_jax.params import EXPERTS, Int8, Layer, int8_product

# of a block: more would only add padding, and fewer read weights more often, or are no full tiles
MOST_ROWS = 256
KERNEL_ROWS = 128  # of a kernel, which reads weights once
WIDE_ROWS = 64  # from which a CPU without units for bfloat16 converts a weight to float32
CPU_FACTS = Path("/proc/cpuinfo")

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": lambda x: jnp.square(jax.nn.relu(x)),  # squared: relu2 in transformers
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def project(axes: str, x: Array, weight: Array | Int8 | None, bias: Array | None) -> Array:
    """Multiply by a weight in the activations' dtype, and add the bias if there is one."""
    assert weight is not None, "a layer of this config has the weight"
    y = product(axes, x, weight)
    return y if bias is None else y + bias.astype(x.dtype)


def product(axes: str, x: Array, weight: Array | Int8) -> Array:
    """Multiply by a weight in the activations' dtype; sums are rounded once, at the end.

    A CPU is asked for sums in float32: asked for bfloat16, XLA multiplies in float32, without the
    matrix units. Without such units many rows are multiplied in float32 all the same: 1.4 times as
    fast, converting the weight included. A GPU is not asked, since cuBLAS would then write sums in
    float32.
    """
    if isinstance(weight, Int8):
        return int8_product(axes, x, weight)

    def multiply(x: Array, weight: Array, dtype: DTypeLike | None = None) -> Array:
        return jnp.einsum(axes, x, weight, preferred_element_type=dtype).astype(x.dtype)

    def widely(x: Array, weight: Array) -> Array:
        if multiplies_bfloat16() or count_rows(axes, x) < WIDE_ROWS:
            return multiply(x, weight, jnp.float32)
        return multiply(x.astype(jnp.float32), weight.astype(jnp.float32)).astype(x.dtype)

    return jax.lax.platform_dependent(x, weight.astype(x.dtype), cpu=widely, default=multiply)


def count_rows(axes: str, x: Array) -> int:
    """Return the rows of a product: the elements of x for each of those that are summed."""
    operands, out = axes.split("->")
    return math.prod(n for n, axis in zip(x.shape, operands, strict=False) if axis in out)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for products of bfloat16."""
    try:
        text = CPU_FACTS.read_text()
    except OSError:  # not Linux
        return False
    return any(name in text for name in ("amx_bf16", "avx512_bf16"))


def gated(config: LayerConfig, gate: Float[Array, "*X"], up: Float[Array, "*X"]) -> Array:
    """Apply the activation of the family to the gate, and multiply by it; in float32.

    With a limit both are bounded, and up gets 1 more, as in `GptOssExperts` of transformers.
    """
    # a CPU rounds each operation on bfloat16 by several of its own
    wide = gate.astype(jnp.float32)
    factor = up.astype(jnp.float32)
    limit = config.swiglu_limit
    if limit is not None:
        wide = jnp.minimum(wide, limit)
        factor = 1 + jnp.clip(factor, -limit, limit)
    return (ACTIVATIONS[config.activation](wide) * factor).astype(gate.dtype)


def activate(config: LayerConfig, x: Float[Array, "*X"]) -> Array:
    """Apply the activation of a family without gates, in float32."""
    return ACTIVATIONS[config.activation](x.astype(jnp.float32)).astype(x.dtype)


class Blocks(NamedTuple):
    """Pairs in the order of their experts, in blocks of R rows of one expert each."""

    source: Int[Array, "M R"]  # the token of each row; rows of padding repeat the first token
    place: Int[Array, "T A"]  # the rows, of M R, of each token's pairs
    expert: Int[Array, " M"]  # the expert of each block
    used: Int[Array, ""]  # blocks that hold any pair


def mixture(
    layer: Layer,
    x: Float[Array, "B T D"],
    router_input: Float[Array, "B T D"] | None = None,
) -> Float[Array, "B T D"]:
    """Send each token through its experts and add up their outputs by their weights."""
    tokens = x.reshape(-1, x.shape[-1])
    routed = tokens if router_input is None else router_input.reshape(tokens.shape)
    chosen, weights = route(layer, routed)
    kernel = layer.experts_kernel
    blocks = sort(chosen, layer.config.experts, MOST_ROWS if kernel is None else KERNEL_ROWS)
    rows = run_experts(layer, tokens, blocks) if kernel is None else kernel(layer, tokens, blocks)
    mixed = jnp.einsum("tad,ta->td", rows[blocks.place], weights)
    return mixed.reshape(x.shape)


def route(layer: Layer, x: Float[Array, "T D"]) -> tuple[Int[Array, "T A"], Float[Array, "T A"]]:
    """Pick each token's experts and their weights in float32, from a softmax over all experts.

    Or from the sigmoid of each; a bias may take part in the choice alone.
    """
    assert layer.router is not None
    router = layer.router.astype(x.dtype)
    # scores that lose bits choose other experts, and there are few of them to compute
    exact = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    scores = jnp.einsum("td,de->te", x, router, **exact)
    bias = 0.0 if layer.router_bias is None else layer.router_bias.astype(scores.dtype)
    scores = scores if layer.config.choice_bias else scores + bias
    shares = jax.nn.sigmoid(scores) if layer.config.sigmoid_routing else jax.nn.softmax(scores)
    choice = shares + bias if layer.config.choice_bias else shares
    weights, chosen = jax.lax.top_k(choice, layer.config.experts_per_token)
    if layer.config.choice_bias:
        weights = jnp.take_along_axis(shares, chosen, axis=-1)
    if layer.config.normalised_routing:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    if layer.expert_scale is not None:
        weights = weights * layer.expert_scale.astype(weights.dtype)[chosen]
    return chosen, (layer.config.routed_scale * weights).astype(x.dtype)


def sort(chosen: Int[Array, "T A"], experts: int, most_rows: int = MOST_ROWS) -> Blocks:
    """Lay pairs out by expert, each expert's rows padded to whole blocks.

    Shapes are bounds for any choice: every pair may need a block of its own, and no more than one
    block of each expert is partly filled.
    """
    pairs = chosen.size
    rows = block_rows(pairs, experts, most_rows)
    most = min(pairs, pairs // rows + experts)
    flat = chosen.reshape(-1)
    counts = jnp.bincount(flat, length=experts)
    blocks = -(-counts // rows)
    ends = jnp.cumsum(blocks)
    order = jnp.argsort(flat, stable=True)
    expert = flat[order]
    rank = jnp.arange(pairs) - (jnp.cumsum(counts) - counts)[expert]  # within its expert
    place = jnp.zeros(pairs, jnp.int32).at[order].set((ends - blocks)[expert] * rows + rank)
    token = jnp.arange(pairs, dtype=jnp.int32) // chosen.shape[1]
    return Blocks(
        source=jnp.zeros(most * rows, jnp.int32).at[place].set(token).reshape(most, rows),
        place=place.reshape(chosen.shape),
        expert=jnp.minimum(jnp.searchsorted(ends, jnp.arange(most), side="right"), experts - 1),
        used=ends[-1],
    )


def block_rows(pairs: int, experts: int, most_rows: int = MOST_ROWS) -> int:
    """Return the rows of a block: about as many as an expert gets, a power of two."""
    return min(most_rows, 1 << max(0, (pairs // experts) - 1).bit_length())


def run_experts(layer: Layer, x: Float[Array, "T D"], blocks: Blocks) -> Float[Array, "MR D"]:
    """Run each block's rows through its expert; blocks that are not used have any values."""
    experts = tuple(getattr(layer, name) for name in EXPERTS)
    assert layer.first_expert is not None
    numbers = layer.first_expert + blocks.expert

    # the backward pass slices once more: slices that are kept would copy an expert for each block
    @jax.checkpoint
    def compute(x, experts, source, expert):
        rows = x[source]
        gate, up, down, *biases = jax.tree.map(lambda weights: weights[expert], experts)
        hidden = gated(
            layer.config,
            project("rd,df->rf", rows, gate, biases[0]),
            project("rd,df->rf", rows, up, biases[1]),
        )
        return project("rf,fd->rd", hidden, down, biases[2])

    def step(i, block):
        def run():
            return compute(x, experts, *block)

        def run_if_used():
            rows = blocks.source.shape[1]
            return jax.lax.cond(
                i < blocks.used, run, lambda: jnp.zeros((rows, x.shape[1]), x.dtype)
            )

        # the host of a GPU would wait for each block to learn whether it is used
        return i + 1, jax.lax.platform_dependent(cuda=run, default=run_if_used)

    _, out = jax.lax.scan(step, 0, (blocks.source, numbers))
    return out.reshape(-1, x.shape[1])
