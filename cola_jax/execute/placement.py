"""Placement of the arrays of a worker: on which devices, and in which order in memory."""

import ctypes
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cola_jax.errors import InputError
from cola_jax.params import Layer, Model

TPU_ORDER = Layout((0, 2, 3, 1))  # of [L, D, N, H], the axis that varies slowest first
VIEWED = 2**16  # bytes of a layer's array; smaller ones are copied
ALIGNED = 256  # bytes, as a GPU allocates


def model_devices(model: Model) -> np.ndarray:
    """Return the devices of a model [data, tensor]."""
    sharding = model.embedding.sharding
    if not isinstance(sharding, NamedSharding):
        return np.array([[next(iter(model.embedding.devices()))]])
    mesh = sharding.mesh
    order = [mesh.axis_names.index(name) for name in ("data", "tensor") if name in mesh.axis_names]
    devices = np.asarray(mesh.devices).transpose(order)
    return devices.reshape(mesh.shape.get("data", 1), mesh.shape.get("tensor", 1))


def worker_mesh(devices: np.ndarray) -> Mesh:
    """Return the mesh of a worker: its devices along `tensor`."""
    return Mesh(devices.reshape(-1), ("tensor",), axis_types=(AxisType.Auto,))


def sharding_on(devices: np.ndarray, split: int | None = None) -> jax.sharding.Sharding:
    """Return the sharding of arrays that are split along an axis, or whole on every device."""
    if devices.size == 1:
        return SingleDeviceSharding(devices.flat[0])
    spec = () if split is None else (*(None,) * split, "tensor")
    return NamedSharding(worker_mesh(devices), PartitionSpec(*spec))


def local_shards(leaf: jax.Array, devices: np.ndarray) -> jax.Array:
    """View the shards of a weight that lie on a worker's devices as an array, without a copy."""
    shards = {shard.device: shard.data for shard in leaf.addressable_shards}
    missing = [device for device in devices.flat if device not in shards]
    if missing:
        raise InputError(f"the model is not on {missing}: load it with the mesh that it runs on.")
    if devices.size == 1:
        return shards[devices.flat[0]]
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else PartitionSpec()
    spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
    return jax.make_array_from_single_device_arrays(
        leaf.shape, NamedSharding(worker_mesh(devices), spec), [shards[d] for d in devices.flat]
    )


def in_tpu_order(layers: Layer) -> Layer:
    """Lay q, k and v out in memory as [L, N, H, D].

    A TPU's products take them so; from [L, D, N, H] it copies a layer's weights for every tile
    (see experiments/compile/tpu.py).
    """
    q, k, v = jax.tree.map(
        lambda leaf: jax.device_put(leaf, Format(TPU_ORDER, leaf.sharding)),
        (layers.q, layers.k, layers.v),
    )
    return layers.replace(q=q, k=k, v=v)


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
pointer_of.restype = ctypes.c_void_p
pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


class StackPart:
    """A part of a stack, for `jax.dlpack.from_dlpack`.

    The capsule that JAX exports for the whole stack, with the place and the size of the part. It
    holds the memory of the stack until the reader has freed it.
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


def layers_of(model: Model) -> Iterator[Layer]:
    """Yield each layer of a model as a stack of one, on the same devices.

    All but small arrays share the stack's memory, so that no second copy of the weights is made; a
    device that does not have them in order gets copies.
    """
    for i, place in enumerate(model.config.stack_index):
        stack = model.layers[model.config.kind_of(i)]
        yield jax.tree.map(lambda leaf, index=place: layer_part(leaf, index), stack)


def layer_part(leaf: jax.Array, index: int) -> jax.Array:
    """Return a layer's part of a stacked array."""
    parts = [view_part(shard.data, index) for shard in leaf.addressable_shards]
    if len(parts) == 1:
        return parts[0]
    return jax.make_array_from_single_device_arrays((1, *leaf.shape[1:]), leaf.sharding, parts)


def view_part(stack: Any, index: int) -> jax.Array:
    """View a part of an array on one device, or copy it where it is small or not in order.

    `stack` is a jax.Array, whose type stubs lack some attributes.
    """
    size = stack.nbytes // stack.shape[0]
    in_order = tuple(stack.format.layout.major_to_minor) == tuple(range(stack.ndim))
    (device,) = stack.devices()
    elsewhere = device.platform == "cpu" and device.id > 0  # DLPack knows the first CPU alone
    if not in_order or size < VIEWED or size % ALIGNED or elsewhere:
        return stack[index : index + 1]
    return jax.dlpack.from_dlpack(StackPart(stack, index))
