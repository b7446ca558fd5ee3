"""A lane: one copy of the model on its own devices, fed by one thread and read by another.

The thread that feeds dispatches programs ahead of the device, and the one that reads waits for
results, so that whoever plans the next wave waits for neither.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cola_jax.execute.compilation import COUNTER
from cola_jax.execute.store import kept_as
from cola_jax.params import Layer, Model

TPU_ORDER = Layout((0, 2, 3, 1))  # of [L, D, N, H], the axis that varies slowest first


class Busy(NamedTuple):
    """Seconds from the first dispatch to the last result, and of those with work on the device."""

    wall: float
    busy: float


class Lane:
    """Runs programs in the order in which they are submitted."""

    def __init__(self, model: Model, devices: np.ndarray):
        """Takes the part of a model that lies on the devices of one place of the `data` axis."""
        self.device = devices.flat[0]
        self.sharding = placement(devices)
        self.devices = devices
        model = jax.tree.map(lambda leaf: local(leaf, devices), model)
        if self.device.platform == "tpu":
            model = model.replace(layers=in_tpu_order(model.layers))
        self.model = model
        self.layers = layer_by_layer(model.layers)
        self.feeder = ThreadPoolExecutor(1, f"feed {self.device}")
        self.reader = ThreadPoolExecutor(1, f"read {self.device}")
        self.clock = Clock()
        self.spare: dict[tuple[tuple[int, ...], str], list[jax.Array]] = {}

    def put(self, tree: Any) -> Any:
        """Copies arrays to every device of the lane."""
        return jax.device_put(tree, self.sharding)

    def submit(
        self, dispatch: Callable[[], Any], assemble: Callable[[Any], Any] = lambda arrays: arrays
    ) -> Future[Any]:
        """Calls `dispatch` on the lane's thread, then `assemble` with its arrays as numpy.

        They are waited for on another thread, while the next submission is dispatched.
        """
        out: Future[Any] = Future()

        def feed():
            try:
                begun, compiled = time.perf_counter(), COUNTER.thread_seconds()
                arrays = dispatch()
                # the device waits for a compiler: that is no work
                begun += COUNTER.thread_seconds() - compiled
                self.reader.submit(fetch, begun, arrays)
            except BaseException as error:
                out.set_exception(error)

        def fetch(begun: float, arrays: Any):
            try:
                arrays = jax.device_get(arrays)
                self.clock.record(begun, time.perf_counter())
                out.set_result(assemble(arrays))
            except BaseException as error:
                out.set_exception(error)

        self.feeder.submit(feed)
        return out

    def buffer(self, shape: tuple[int, ...], dtype: Any, *, split: int) -> jax.Array:
        """Takes a buffer of any content, one that was given back where the shape is the same.

        Each device holds a part of it along the axis `split`, where that divides. It is read and
        written by `store`.
        """
        dtype = kept_as(dtype, self.device.platform)
        if same := self.spare.get((shape, str(dtype))):
            return same.pop()
        self.spare.clear()  # frees what has other shapes before more is allocated
        even = shape[split] % self.devices.size == 0
        placed = split_along(self.devices, split) if even else self.sharding
        return jnp.zeros(shape, dtype, device=placed)

    def give_back(self, buffer: jax.Array) -> None:
        """Keeps a buffer for the next batch of the same shapes."""
        self.spare.setdefault((buffer.shape, str(buffer.dtype)), []).append(buffer)

    def close(self) -> None:
        """Drops what has not begun and ends the threads."""
        self.feeder.shutdown(wait=True, cancel_futures=True)
        self.reader.shutdown(wait=True, cancel_futures=True)


class Clock:
    """Adds up the time in which a lane had work, from when its programs began and ended."""

    def __init__(self):
        self.lock = threading.Lock()
        self.first: float | None = None
        self.last = 0.0
        self.busy = 0.0

    def record(self, begun: float, ended: float) -> None:
        """Adds one program; it cannot have run before the one ahead of it ended."""
        with self.lock:
            self.first = begun if self.first is None else self.first
            self.busy += ended - max(begun, self.last)
            self.last = ended

    def read(self) -> Busy:
        """Returns what was recorded so far."""
        with self.lock:
            return Busy(0.0 if self.first is None else self.last - self.first, self.busy)


def placement(devices: np.ndarray) -> jax.sharding.Sharding:
    """Returns the sharding of what every device of a lane holds whole."""
    if devices.size == 1:
        return SingleDeviceSharding(devices.flat[0])
    return NamedSharding(lane_mesh(devices), PartitionSpec())


def split_along(devices: np.ndarray, axis: int) -> jax.sharding.Sharding:
    """Returns the sharding of what each device of a lane holds a part of, along one axis."""
    if devices.size == 1:
        return SingleDeviceSharding(devices.flat[0])
    return NamedSharding(lane_mesh(devices), PartitionSpec(*(None,) * axis, "tensor"))


def in_tpu_order(layers: Layer) -> Layer:
    """Lays q, k and v out in memory as [L, N, H, D].

    A TPU's products take them so; from [L, D, N, H] it copies a layer's weights for every tile
    (seen in what the compiler makes of `advance`: see experiments/tpu_compile.py).
    """
    return layers.replace(
        **{
            name: jax.device_put(leaf, Format(TPU_ORDER, leaf.sharding))
            for name, leaf in (("q", layers.q), ("k", layers.k), ("v", layers.v))
        }
    )


def lane_mesh(devices: np.ndarray) -> Mesh:
    """Returns the mesh of a lane: its devices along `tensor`."""
    return Mesh(devices.reshape(-1), ("tensor",), axis_types=(AxisType.Auto,))


def local(leaf: jax.Array, devices: np.ndarray) -> jax.Array:
    """Views the shards of a weight that lie on a lane's devices as an array, without a copy."""
    shards = {shard.device: shard.data for shard in leaf.addressable_shards}
    missing = [device for device in devices.flat if device not in shards]
    if missing:
        raise ValueError(f"the model is not on {missing}: load it with the mesh that it runs on.")
    if devices.size == 1:
        return shards[devices.flat[0]]
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else PartitionSpec()
    spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
    return jax.make_array_from_single_device_arrays(
        leaf.shape, NamedSharding(lane_mesh(devices), spec), [shards[d] for d in devices.flat]
    )


def layer_by_layer(layers: Layer) -> list[Layer] | None:
    """Views a stack on a CPU as stacks of one layer, which share its memory; None elsewhere.

    A CPU copies a layer that it slices out of the stack inside a loop (other backends fuse the
    slice into the products), so there each run of tiles is a call with its own layer's arrays.
    """
    leaf = layers.q
    (device, *others) = leaf.devices()
    if device.platform != "cpu" or others:
        return None
    views = jax.tree.map(np.asarray, layers)
    return [
        jax.tree.map(lambda leaf, i=i: jax.device_put(leaf[i : i + 1], device), views)
        for i in range(leaf.shape[0])
    ]
