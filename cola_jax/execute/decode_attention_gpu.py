"""A GPU kernel for decode steps: attention that reads the KV cache where it lies.

As on a TPU, JAX's own paged kernel does not fit: it takes one list of pages for each row, filled
from the first token to the last, and knows no window. JAX 0.12 says that it will remove Pallas for
Triton: where it is gone, the kernel's trial fails, and decode steps gather keys and values.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Shaped

from cola_jax.errors import InputError
from cola_jax.execute.decode_attention import (
    DecodeKernel,
    Pair,
    Rows,
    seen_own,
    seen_prompt,
)
from cola_jax.execute.device_kernel import MASKED
from cola_jax.execute.memory import ceil_power

SPAN = 64  # tokens that are read at a time
FEWEST_QUERIES = 16  # rows of a product on a GPU's matrix units

State = tuple[Array, Array, Array]  # of a softmax: the largest score, the sum, and what is mixed


@dataclasses.dataclass(frozen=True)
class GpuDecodeKernel(DecodeKernel):
    """The kernel on the devices of a worker, which split the heads."""

    def check_width(self, width: int) -> None:
        """Raises ValueError for heads of a width that the kernel does not take."""
        if width != ceil_power(width) or width < FEWEST_QUERIES:
            raise InputError(f"heads of {width} are not a power of two wide, from 16 on")

    def run(self, *arrays: Any, reach: int) -> tuple[Array, Array, Array]:
        """Attends on one device; each row reads what it sees, so nothing is bound by `reach`."""
        del reach
        return write_and_attend(*arrays, interpret=self.interpret)


def triton() -> Any:
    """Returns JAX's Pallas for Triton; ImportError where JAX has it no more."""
    from jax.experimental.pallas import triton as module

    return module


def write_and_attend(
    rows: Rows,
    q: Float[Array, "R N H"],
    token: Pair,
    prompt: Pair,
    own: Pair,
    *,
    interpret: bool,
) -> tuple[Float[Array, "R N H"], Shaped[Array, "M K X H"], Shaped[Array, "M K X H"]]:
    """Does what `decode_attention.decode_attention` does; tokens are written by a scatter."""
    k, v = (
        blocks.at[rows.block, :, rows.nth].set(new, mode="promise_in_bounds")
        for blocks, new in zip(own, token, strict=True)
    )
    count, heads, width = q.shape
    groups = k.shape[1]
    queries = heads // groups
    padding = max(FEWEST_QUERIES, ceil_power(queries)) - queries
    grouped = q.reshape(count, groups, queries, width)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, padding), (0, 0)))
    mixed = gpu_call(grouped, prompt, (k, v), interpret)(*rows, grouped, *prompt, k, v)
    return mixed[:, :, :queries].reshape(count, heads, width), k, v


def gpu_call(q: Array, prompt: Pair, own: Pair, interpret: bool) -> Any:
    """Builds the call of the kernel for these shapes: a program for each row and key/value head."""
    count, groups, queries, width = q.shape
    a_row = pl.BlockSpec((1,), lambda r, head: (r,))
    one = pl.BlockSpec((1,), lambda r, head: (0,))
    heads = pl.BlockSpec((None, None, queries, width), lambda r, head: (r, head, 0, 0))

    def whole(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec(x.shape, lambda r, head: (0, 0, 0, 0))

    return pl.pallas_call(
        functools.partial(gpu_kernel, scale=width**-0.5),
        grid=(count, groups),
        in_specs=[*[a_row] * 4, one, heads, *map(whole, (*prompt, *own))],
        out_specs=heads,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        interpret=interpret,
        compiler_params=triton().CompilerParams(num_warps=4, num_stages=2),
        name="decode_attention",
    )


def gpu_kernel(*refs: Any, scale: float) -> None:
    """Attends with the queries of one row that share a key to its prompt and its decoded tokens."""
    rows = Rows(*refs[:5])
    q_ref, prompt_k, prompt_v, own_k, own_v, out = refs[5:]
    q = q_ref[...]
    top = jnp.full(q.shape[:1], MASKED, jnp.float32)
    state = top, jnp.zeros_like(top), jnp.zeros(q.shape, jnp.float32)
    for block, seen, k, v in (
        (rows.prompt_block[0], seen_prompt(rows, 0), prompt_k, prompt_v),
        (rows.block[0], seen_own(rows, 0), own_k, own_v),
    ):
        state = gpu_attend(state, q, k, v, block, seen, scale)
    _, total, mixed = state
    out[...] = (mixed / total[:, None]).astype(out.dtype)


def gpu_attend(
    state: State, q: Array, k: Any, v: Any, block: Any, seen: tuple[Any, Any], scale: float
) -> State:
    """Adds the tokens of a block that are seen to a softmax, in float32."""
    head, (first, end), plgpu = pl.program_id(1), seen, triton()

    def add(i: Any, state: State) -> State:
        top, total, mixed = state
        place = i * SPAN + jnp.arange(SPAN)
        inside = (place >= first) & (place < end)
        here = block, head, pl.ds(i * SPAN, SPAN), slice(None)
        # what is not seen is not read: it may be NaN, or behind the block
        keys, values = (
            plgpu.load(
                x.at[here], mask=jnp.broadcast_to(inside[:, None], (SPAN, q.shape[1])), other=0
            )
            for x in (k, v)
        )
        scores = jnp.where(inside[None], plgpu.dot(q, keys.T) * scale, MASKED)
        peak = jnp.maximum(top, scores.max(axis=1))
        shares, before = jnp.exp(scores - peak[:, None]), jnp.exp(top - peak)
        now = plgpu.dot(shares.astype(values.dtype), values)
        return peak, total * before + shares.sum(axis=1), mixed * before[:, None] + now

    return jax.lax.fori_loop(first // SPAN, pl.cdiv(end, SPAN), add, state)
