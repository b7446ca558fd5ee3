"""Reading and writing rows of the large buffers, where they are.

XLA's CPU compiler updates no buffer of bfloat16 in place: it turns all of it into float32 and
back for each row that is written, and for a gather. So on a CPU such a buffer holds their bits: a
wave of 24 paths through SmolLM2's shapes in bfloat16 took 114 s before, and 2.8 s since.
"""

from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

FLOATS, BITS = jnp.dtype("bfloat16"), jnp.dtype("uint16")


def kept_as(dtype: Any, platform: str) -> jnp.dtype:
    """Returns the dtype in which a buffer keeps values of a dtype."""
    dtype = jnp.dtype(dtype)
    return BITS if platform == "cpu" and dtype == FLOATS else dtype


@no_type_check
def get(buffer: Shaped[Array, "S ..."], where: Any) -> Shaped[Array, "R ..."]:
    """Takes what an index names, as the floats that were written."""
    values = buffer[where]
    return jax.lax.bitcast_convert_type(values, FLOATS) if values.dtype == BITS else values


@no_type_check
def put(
    buffer: Shaped[Array, "S ..."], values: Shaped[Array, "R ..."], where: Int[Array, " R"]
) -> Shaped[Array, "S ..."]:
    """Writes rows one by one: updates in place, where a scatter may copy the buffer."""
    values = as_kept(buffer, values)
    for row in range(len(values)):
        buffer = jax.lax.dynamic_update_index_in_dim(buffer, values[row], where[row], 0)
    return buffer


@no_type_check
def as_kept(buffer: Array, values: Array) -> Array:
    """Returns values as a buffer keeps them."""
    return jax.lax.bitcast_convert_type(values, BITS) if buffer.dtype == BITS else values
