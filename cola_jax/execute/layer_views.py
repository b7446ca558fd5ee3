"""Layers of a stack as arrays of their own that share its memory.

Inside a loop, a CPU and a GPU copy a layer that they slice out of the stack: their compilers fuse
such a slice into a matrix product only where its place is a constant. So there each run of tiles is
a call with its own layer's arrays.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import jax

from cola_jax.params import Layer

VIEWED = 2**16  # bytes of a layer's array; smaller ones are copied
ALIGNED = 256  # bytes, as a GPU allocates


class DLTensor(ctypes.Structure):
    """An array, as DLPack describes it to other libraries (dmlc.github.io/dlpack)."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class StackPart:
    """A part of a stack, for `jax.dlpack.from_dlpack`.

    It is what JAX gives out for the whole stack, which holds its memory until the reader calls back
    that it needs it no more, with the place and the size of the part.
    """

    def __init__(self, stack: Any, index: int):
        self.device = stack.__dlpack_device__()
        self.capsule: Any = stack.__dlpack__()
        tensor = DLTensor.from_address(pointer_of(self.capsule, b"dltensor"))
        tensor.data += index * (stack.nbytes // tensor.shape[0])
        tensor.shape[0] = 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule


def layers_of(layers: Layer) -> Iterator[Layer]:
    """Yields each layer of a stack as a stack of one, on the same devices.

    All but small arrays share the stack's memory, so that no second copy of the weights is
    ever made; a device that does not have them in order gets copies.
    """
    for index in range(layers.q.shape[0]):
        yield jax.tree.map(lambda leaf, index=index: layer_part(leaf, index), layers)


def layer_part(leaf: jax.Array, index: int) -> jax.Array:
    """Returns a layer's part of a stacked array."""
    parts = [view_part(shard.data, index) for shard in leaf.addressable_shards]
    if len(parts) == 1:
        return parts[0]
    return jax.make_array_from_single_device_arrays((1, *leaf.shape[1:]), leaf.sharding, parts)


def view_part(stack: Any, index: int) -> jax.Array:
    """Views a part of what one device holds, or copies it where it is small or not in order.

    `stack` is a jax.Array, whose type stubs lack what is asked of it.
    """
    size = stack.nbytes // stack.shape[0]
    in_order = tuple(stack.format.layout.major_to_minor) == tuple(range(stack.ndim))
    (device,) = stack.devices()
    elsewhere = device.platform == "cpu" and device.id > 0  # DLPack knows the first CPU alone
    if not in_order or size < VIEWED or size % ALIGNED or elsewhere:
        return stack[index : index + 1]
    return jax.dlpack.from_dlpack(StackPart(stack, index))
