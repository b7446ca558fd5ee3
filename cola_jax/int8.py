"""Weights of eight bits: int8 values and their scales, by output channel or by blocks of inputs.

Only the matrices of layers are stored so. Embedding, head and norms stay floats: the head is read
once a token whatever the path, and its errors are those of the logits.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax.config import ModelConfig
from cola_jax.params import shapes, sharding

INT8 = "int8"
MOST = 127  # the largest value; -128 is not used
# the axes that a product sums over, which share a scale, counted from the last
INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("q", "k", "v"), (-3,)),
    "o": (-3, -2),
    **dict.fromkeys(("gate", "up", "down", "expert_gate", "expert_up", "expert_down"), (-2,)),
}


class Int8(struct.PyTreeNode):
    """A weight `values * scale`; a scale serves a block of values along each axis.

    Both have the same axes, so that a slice, a view or a transposition of layers is one of both.
    """

    values: Any  # int8
    scale: Any  # floats, whose sizes divide those of the values

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return self.values.ndim

    def widen(self, dtype: DTypeLike) -> Any:
        """Return the weight as floats, rounded once."""
        blocks = [(s, n // s) for n, s in zip(self.shape, self.scale.shape, strict=True)]
        values = self.values.reshape([n for block in blocks for n in block])
        scale = self.scale.reshape([n for count, _ in blocks for n in (count, 1)])
        wide = values.astype(np.float32) * scale.astype(np.float32)
        return wide.astype(dtype).reshape(self.shape)


def int8_product(axes: str, x: jax.Array, weight: Int8) -> jax.Array:
    """Multiply by a weight; sums are float32, and rounded once, at the end.

    A scale of a whole output channel multiplies its sums. Compilers then read the int8 values
    inside the product; scaled values they would first write to memory (XLA for H100, Triton).
    """
    multiply = functools.partial(jnp.einsum, axes, x, preferred_element_type=jnp.float32)
    letters, out = axes.split(",")[1].split("->")
    channels = [n for n, axis in zip(weight.scale.shape, letters, strict=True) if axis in out]
    if weight.scale.size > math.prod(channels):
        return multiply(weight.widen(x.dtype)).astype(x.dtype)
    sums = multiply(weight.values.astype(x.dtype))
    return (sums * weight.scale.reshape(channels)).astype(x.dtype)


def quantize(weight: Any, inputs: tuple[int, ...]) -> Int8:
    """Round an array to eight bits, with a scale in float32 for each output channel.

    Zeros have a scale of 1. A NumPy array gives NumPy arrays.
    """
    xp = np if isinstance(weight, np.ndarray) else jnp
    wide = weight.astype(np.float32)
    scale = abs(wide).max(inputs, keepdims=True) * np.float32(1 / MOST)
    scale = xp.where(scale == 0, np.float32(1), scale)
    return Int8(xp.rint(wide / scale).astype(np.int8), scale)


def cast(name: str, weight: Any, dtype: DTypeLike, mesh: Mesh | None = None) -> Any:
    """Convert a weight of this field to the dtype of a model."""
    if jnp.dtype(dtype) == INT8 and name in INPUTS:
        return weight if isinstance(weight, Int8) else quantize_on(name, weight, mesh)
    if isinstance(weight, Int8):
        return jax.jit(Int8.widen, static_argnums=1)(weight, dtype)
    return weight.astype(float_dtype(dtype))


def quantize_on(name: str, weight: jax.Array, mesh: Mesh | None) -> Int8:
    """Round a weight on the devices that hold it, the largest values of a channel shared."""
    run = functools.partial(quantize, inputs=INPUTS[name])
    scale = jax.eval_shape(run, weight).scale.shape
    places = Int8(sharding(name, weight.shape, mesh), sharding(name, scale, mesh))
    return jax.jit(run, out_shardings=places)(weight)


def float_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype of activations and of weights without eight bits, given a model's dtype."""
    if jnp.dtype(dtype) != INT8:
        return jnp.dtype(dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def weight_bytes(config: ModelConfig, dtype: DTypeLike, wide: DTypeLike) -> int:
    """Return the bytes of a model's weights in a dtype, without scales.

    `wide` is the dtype of the weights that stay floats.
    """
    is_int8, size = jnp.dtype(dtype) == INT8, jnp.dtype(wide).itemsize
    return sum(
        math.prod(shape) * (1 if is_int8 and name in INPUTS else size)
        for name, shape in shapes(config).items()
    )
