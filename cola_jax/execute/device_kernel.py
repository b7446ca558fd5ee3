"""What our own kernels have in common: the devices that run one, and the heads that it takes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cola_jax.errors import InputError
from cola_jax.execute.placement import worker_mesh

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row of nothing else gives no NaN
LANES = 128  # of a TPU's tiles: a head's width is a multiple of it


@dataclasses.dataclass(frozen=True)
class DeviceKernel:
    """A kernel on the devices of a worker, which split the heads."""

    mesh: Mesh | None = None  # of several devices
    interpret: bool = False  # without the device, for tests

    def on(self, devices: np.ndarray) -> Any:
        """Returns a kernel of the same class for a worker's devices."""
        mesh = worker_mesh(devices) if devices.size > 1 else None
        return dataclasses.replace(self, mesh=mesh)

    def check_width(self, width: int) -> None:
        """Raises ValueError for heads of a width that the kernel does not take."""
        if width % LANES:
            raise InputError(f"heads of {width} are not a multiple of {LANES} wide")
