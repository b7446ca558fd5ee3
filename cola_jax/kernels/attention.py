"""Attention by XLA: over prompts, after a prefix, and to a KV cache. cuDNN may do the first two.

The buffers of states and of the cache are updated in place; `get` and `put` read and write rows.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.attention import MOST_PAIRS, KeysValues, Seen, attend, attend_to_parts
from cola_jax.model import rotate
from cola_jax.params import Layer

MOST_GATHERED = 2**19  # bytes of a row; to gather longer ones, libtpu 0.0.42 copies the buffer
LANES = 128  # of a TPU, in the last axis of an array
FLOATS = jnp.dtype("bfloat16")
BITS = jnp.dtype("uint16")

Rotation = tuple[Float[Array, "R _ h"], Float[Array, "R _ h"]]  # cosines and sines


class Rotated(NamedTuple):
    """Queries, keys and values of a tile, not rotated yet, and the angles that rotate them."""

    q: Float[Array, "R Q N H"]
    k: Float[Array, "R T K H"]
    v: Float[Array, "R T K H"]
    of_queries: Rotation
    of_keys: Rotation
    sinks: Float[Array, " N"] | None = None  # of the layer


@dataclasses.dataclass(frozen=True)
class PromptAttention:
    """Attention of the tokens of prompts to each other; softmax in float32."""

    implementation: Literal["cudnn"] | None = None
    softcap: float | None = None

    @property
    def least_block(self) -> int:
        """The fewest queries of a tile that it should take together, where there are as many."""
        return 24 if self.implementation is None else 128

    def skips_rows(self, tokens: int, longest: int) -> bool:
        """Return whether it takes a tile of rows of at most so many tokens as it is."""
        return tokens * longest > MOST_PAIRS

    def on(self, mesh: Mesh) -> "PromptAttention":
        """Return the kernel for several devices, which split the heads."""
        return self

    def view_layers(self, layers: Layer) -> Layer:
        """View a stack of layers in the shapes in which the kernel takes its products."""
        return layers

    def over(
        self, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Attend to the tokens that are seen; with `keep`, return rotated keys and values."""
        q = rotate(tokens.q, *tokens.of_queries)
        k = rotate(tokens.k, *tokens.of_keys)
        bounds = self.softcap, tokens.sinks
        return attend(q, k, tokens.v, seen, self.implementation, *bounds), (k, tokens.v)

    def after(
        self,
        before: tuple[Float[Array, "R K P H"], Float[Array, "R K P H"]],
        tokens: Rotated,
        seen: Seen,
        keep: bool,
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Attend to P earlier tokens, whose keys are rotated, as well; keep those of both.

        The row continues all of them; `seen` is about its own tokens.
        """
        q = rotate(tokens.q, *tokens.of_queries)
        k = rotate(tokens.k, *tokens.of_keys)
        kept = followed_by(before, (k, tokens.v))
        seen = seen.after(before[0].shape[2])
        if self.implementation is not None:
            return attend(q, *kept, seen, self.implementation), kept
        own = k.transpose(0, 2, 1, 3), tokens.v.transpose(0, 2, 1, 3)
        bounds = self.softcap, tokens.sinks
        return attend_to_parts(q, (before, own), seen, *bounds), kept


def followed_by(before: KeysValues, own: KeysValues) -> KeysValues:
    """Put keys and values [R, K, P, H] in front of those of T more tokens [R, T, K, H]."""
    k, v = (
        jnp.concatenate([first.transpose(0, 2, 1, 3).astype(x.dtype), x], axis=1)
        for first, x in zip(before, own, strict=True)
    )
    return k, v


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
    # a CPU writes whole rows in place at once
    on_cpu = put_at_once if values.shape[1:] == buffer.shape[1:] else put_by_rows
    return jax.lax.platform_dependent(
        buffer, values, rows, cpu=on_cpu, cuda=put_at_once, default=put_by_rows
    )


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
