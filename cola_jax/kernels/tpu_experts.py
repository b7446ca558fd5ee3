"""Experts as a TPU kernel: each block of rows goes through the whole MLP of its expert.

Blocks are in the order of their experts, and the weights of an expert stay on the chip while they
serve its blocks: each is read once, as in one large product.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from cola_jax.config import LayerConfig
from cola_jax.kernels.attention import LANES
from cola_jax.kernels.tpu_prompt import SUBLANES, contract
from cola_jax.moe import Blocks, gated, run_experts
from cola_jax.params import EXPERT_BIASES, Int8, Layer

MOST_WEIGHTS = 28 * 2**20  # bytes of an expert's weights on the chip, which are there twice
MEMORY = 80 * 2**20  # bytes of the chip's memory that the kernel may use


def run_experts_on_tpu(
    layer: Layer, x: Float[Array, "T D"], blocks: Blocks, interpret: bool = False
) -> Float[Array, "MR D"]:
    """Run each block's rows through its expert, as `moe.run_experts`; others have any values."""
    weights: Any = layer.expert_gate, layer.expert_up, layer.expert_down
    rows = blocks.source.shape[1]
    biased = any(getattr(layer, name) is not None for name in EXPERT_BIASES)
    hidden = weights[0].shape[2]
    whole = rows % SUBLANES == x.shape[1] % LANES == hidden % LANES == 0
    whole = whole or interpret
    if biased or isinstance(weights[0], Int8) or weights[0].dtype != x.dtype or not whole:
        return run_experts(layer, x, blocks)
    assert layer.first_expert is not None
    scalars = layer.first_expert + blocks.expert, blocks.used[None]
    taken = x[blocks.source.reshape(-1)]
    return call_kernel(
        scalars, taken, *weights, rows=rows, config=layer.config, interpret=interpret
    )


def call_kernel(
    scalars: tuple[Int[Array, " M"], Int[Array, " 1"]],
    x: Float[Array, "MR D"],
    gate: Float[Array, "E D X"],
    up: Float[Array, "E D X"],
    down: Float[Array, "E X D"],
    *,
    rows: int,
    config: LayerConfig,
    interpret: bool,
) -> Float[Array, "MR D"]:
    """Call the kernel for blocks of rows, and for parts of the experts' hidden units."""
    _, width, hidden = gate.shape
    sizes = [n for n in range(hidden, 0, -1) if hidden % n == 0 and n % LANES == 0] or [hidden]
    bytes_of_unit = 6 * width * x.dtype.itemsize  # of gate, up and down, twice
    size = next((n for n in sizes if n * bytes_of_unit <= MOST_WEIGHTS), sizes[-1])
    steps = hidden // size

    def of_rows(m: Any, j: Any, expert: Any, used: Any) -> Any:
        return jnp.minimum(m, used[0] - 1), 0

    def part_of(m: Any, j: Any, used: Any) -> Any:
        return jnp.where(m < used[0], j, steps - 1)  # of no other block: nothing is copied

    def of_inputs(m: Any, j: Any, expert: Any, used: Any) -> Any:
        return expert[jnp.minimum(m, used[0] - 1)], 0, part_of(m, j, used)

    def of_outputs(m: Any, j: Any, expert: Any, used: Any) -> Any:
        return expert[jnp.minimum(m, used[0] - 1)], part_of(m, j, used), 0

    run = pl.pallas_call(
        functools.partial(experts_kernel, config=config),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(len(x) // rows, steps),
            in_specs=[
                pl.BlockSpec((rows, width), of_rows),
                pl.BlockSpec((1, width, size), of_inputs),
                pl.BlockSpec((1, width, size), of_inputs),
                pl.BlockSpec((1, size, width), of_outputs),
            ],
            out_specs=pl.BlockSpec((rows, width), of_rows),
            scratch_shapes=[pltpu.VMEM((rows, width), jnp.float32)] * (steps > 1),
        ),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        interpret=interpret,
        name="experts",
    )
    return run(*scalars, x, gate, up, down)


def experts_kernel(
    expert: Any,
    used: Any,
    x: Any,
    gate: Any,
    up: Any,
    down: Any,
    out: Any,
    *total: Any,
    config: LayerConfig,
) -> None:
    """Run a block of rows through a part of the hidden units of its expert."""
    j = pl.program_id(1)

    @pl.when(pl.program_id(0) < used[0])
    def _():
        rows = x[...]
        hidden = gated(config, contract(rows, gate[0], 0), contract(rows, up[0], 0))
        mixed = contract(hidden.astype(rows.dtype), down[0], 0)
        if not total:
            out[...] = mixed.astype(out.dtype)
            return

        @pl.when(j == 0)
        def _():
            total[0][...] = jnp.zeros(mixed.shape, mixed.dtype)

        total[0][...] += mixed
        out[...] = total[0][...].astype(out.dtype)
