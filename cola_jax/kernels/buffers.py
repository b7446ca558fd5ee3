"""Buffers that programs update in place: how their rows are read and written."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, Shaped

MOST_GATHERED = 2**19  # bytes of a row; to gather longer ones, libtpu 0.0.42 copies the buffer
LANES = 128  # of a TPU, in an array's last axis
FLOATS, BITS = jnp.dtype("bfloat16"), jnp.dtype("uint16")


def stored_as(dtype: Any, platform: str) -> jnp.dtype:
    """Return the dtype in which a buffer stores values of a dtype.

    XLA's CPU compiler updates no bfloat16 buffer in place: it converts all of it to float32 and
    back for each row that is written, and for a gather. So on a CPU such a buffer holds bits: a
    wave of 24 paths through SmolLM2's shapes in bfloat16 took 114 s before, and 2.8 s since.
    """
    dtype = jnp.dtype(dtype)
    return BITS if platform == "cpu" and dtype == FLOATS else dtype


def get(
    buffer: Shaped[Array, " S *X"], rows: Int[Array, " R"], *part: slice
) -> Float[Array, " R *Y"]:
    """Take rows, or a part of each, as the floats that were written."""
    at_once, by_rows = (functools.partial(f, part=part) for f in (get_at_once, get_by_rows))
    on_tpu = by_rows if buffer.nbytes > MOST_GATHERED * len(buffer) else at_once
    values = jax.lax.platform_dependent(buffer, rows, tpu=on_tpu, default=at_once)
    return jax.lax.bitcast_convert_type(values, FLOATS) if values.dtype == BITS else values


def get_at_once(buffer: Array, rows: Array, part: tuple[slice, ...] = ()) -> Array:
    """Read rows in one operation."""
    return buffer[rows, *part]


def get_by_rows(buffer: Array, rows: Array, part: tuple[slice, ...] = ()) -> Array:
    """Read rows one by one: to gather large rows, a TPU's compiler may copy the whole buffer.

    The constraint keeps it from copying the buffer to the order of axes in which the values are
    used. Arrays of other widths than whole lanes have an order of their own in memory.
    """
    taken = [jax.lax.dynamic_index_in_dim(buffer, row, keepdims=False)[part] for row in rows]
    values = jnp.stack(taken)
    if values.shape[-1] % LANES:
        return values
    return with_layout_constraint(values, Layout(tuple(range(values.ndim))))


def put(
    buffer: Shaped[Array, " S *X"], values: Float[Array, " R *Y"], rows: Int[Array, " R"]
) -> Shaped[Array, " S *X"]:
    """Write rows, or their beginnings, in place where the buffer is donated."""
    values = as_stored(buffer, values)
    return jax.lax.platform_dependent(buffer, values, rows, cuda=put_at_once, default=put_by_rows)


def put_at_once(buffer: Array, values: Array, rows: Array) -> Array:
    """Write rows in one operation: on a GPU each costs a kernel."""
    part = tuple(slice(size) for size in values.shape[1:])
    return buffer.at[rows, *part].set(values, mode="promise_in_bounds")


def put_by_rows(buffer: Array, values: Array, rows: Array) -> Array:
    """Write rows one by one: elsewhere than on a GPU, a scatter may copy the buffer."""
    for row in range(len(values)):
        start = rows[row], *[0] * (values.ndim - 1)
        buffer = jax.lax.dynamic_update_slice(buffer, values[row][None], start)
    return buffer


def as_stored(buffer: Shaped[Array, "*S"], values: Float[Array, "*X"]) -> Shaped[Array, "*X"]:
    """Return values as a buffer stores them."""
    return jax.lax.bitcast_convert_type(values, BITS) if buffer.dtype == BITS else values
