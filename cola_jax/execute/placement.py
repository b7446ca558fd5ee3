"""Placement: where the arrays of a worker lie, and in which order in memory."""

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cola_jax.errors import InputError
from cola_jax.params import Layer, Model

TPU_ORDER = Layout((0, 2, 3, 1))  # of [L, D, N, H], the axis that varies slowest first


def model_devices(model: Model) -> np.ndarray:
    """Returns the devices of a model [data, tensor]."""
    sharding = model.embedding.sharding
    if not isinstance(sharding, NamedSharding):
        return np.array([[next(iter(model.embedding.devices()))]])
    mesh = sharding.mesh
    order = [mesh.axis_names.index(name) for name in ("data", "tensor") if name in mesh.axis_names]
    devices = np.asarray(mesh.devices).transpose(order)
    return devices.reshape(mesh.shape.get("data", 1), mesh.shape.get("tensor", 1))


def worker_mesh(devices: np.ndarray) -> Mesh:
    """Returns the mesh of a worker: its devices along `tensor`."""
    return Mesh(devices.reshape(-1), ("tensor",), axis_types=(AxisType.Auto,))


def held_whole(devices: np.ndarray) -> jax.sharding.Sharding:
    """Returns the sharding of what every device of a worker holds whole."""
    if devices.size == 1:
        return SingleDeviceSharding(devices.flat[0])
    return NamedSharding(worker_mesh(devices), PartitionSpec())


def split_along(devices: np.ndarray, axis: int) -> jax.sharding.Sharding:
    """Returns the sharding of what is split over the devices of a worker along one axis."""
    if devices.size == 1:
        return SingleDeviceSharding(devices.flat[0])
    return NamedSharding(worker_mesh(devices), PartitionSpec(*(None,) * axis, "tensor"))


def local_shards(leaf: jax.Array, devices: np.ndarray) -> jax.Array:
    """Views the shards of a weight that lie on a worker's devices as an array, without a copy."""
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
    """Lays q, k and v out in memory as [L, N, H, D].

    A TPU's products take them so; from [L, D, N, H] it copies a layer's weights for every tile
    (seen in what the compiler makes of `forward`: see experiments/tpu_compile.py).
    """
    return layers.replace(
        **{
            name: jax.tree.map(
                lambda leaf: jax.device_put(leaf, Format(TPU_ORDER, leaf.sharding)), weight
            )
            for name, weight in (("q", layers.q), ("k", layers.k), ("v", layers.v))
        }
    )
