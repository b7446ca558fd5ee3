"""The devices of an engine, and their memory."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from cola_jax.errors import InputError

if TYPE_CHECKING:
    from jax.sharding import Mesh

Device = Literal["cpu", "gpu", "cuda", "tpu"]


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of this host that run the model."""

    device: Device | None = None
    """Kind of device to run on: cpu, gpu or tpu; the fastest that JAX finds by default."""
    data: int | None = None
    """Copies of the model, each on its own devices with its own questions; all devices are used by
    default."""
    tensor: int = 1
    """Devices that split the weights of one copy, by heads and MLP width."""
    memory_budget: str | None = None
    """Memory for states and caches on each device beside the weights, such as 2GB or 50%; half of
    the memory that the weights leave by default."""
    tile_tokens: int | None = None
    """Tokens that run a layer together; chosen for the backend by default."""

    def __post_init__(self):
        for name in ("tile_tokens", "data", "tensor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, it is {value}.")
        if self.memory_budget is not None:
            from cola_jax.execute.memory import parse_size

            parse_size(self.memory_budget)

    @property
    def budget(self) -> int | None:
        """The memory budget in bytes; a percentage is a share of a device's memory."""
        if self.memory_budget is None:
            return None
        import jax

        from cola_jax.execute.memory import device_memory, parse_size

        size = parse_size(self.memory_budget)
        whole = device_memory(jax.local_devices()[0]) if isinstance(size, float) else 1
        return int(size * whole)

    def check_backend(self) -> None:
        """Make JAX run on the chosen kind of device; InputError where it cannot."""
        import jax

        if self.device == "cpu":  # JAX chooses other kinds itself
            jax.config.update("jax_platforms", "cpu")
        backend = jax.default_backend()
        wanted = "gpu" if self.device == "cuda" else self.device
        if wanted is not None and backend != wanted:
            install = {"tpu": "cola-jax[tpu]", "gpu": "cola-jax[cuda13]", "cpu": "cola-jax"}
            raise InputError(
                f"the device is to be {self.device}, but JAX runs on {backend} here: install "
                f"{install[wanted]}, and look at JAX_PLATFORMS and at who else holds the devices."
            )

    def mesh(self, questions: int) -> "Mesh | None":
        """Return the mesh for a number of questions, None for a single device."""
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh

        self.check_backend()
        devices = jax.local_devices()
        data = self.data or min(max(len(devices) // self.tensor, 1), questions)
        if data * self.tensor > len(devices) or (self.data is None and len(devices) % self.tensor):
            raise InputError(
                f"data {data} times tensor {self.tensor} does not fit the {len(devices)} devices "
                "of this host: choose others."
            )
        if data > questions:
            raise InputError(
                f"data {data} is more than the {questions} questions to run: each copy of the "
                "model runs questions of its own."
            )
        if data * self.tensor == 1:
            return None
        chosen = np.array(devices[: data * self.tensor]).reshape(data, self.tensor)
        return Mesh(chosen, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def choose_dtype(dtype: str | None, stored: str, backend: str | None = None) -> str:
    """Return the dtype of weights and activations: the stored one by default, float32 on a CPU.

    `backend` is by default the one that JAX uses.
    """
    import jax

    cpu = (backend or jax.default_backend()) == "cpu"
    if dtype == "float16" and cpu:  # XLA cannot sum its products in float32 there
        raise InputError("a CPU does not run float16: give --dtype float32 or bfloat16.")
    return dtype or ("float32" if cpu and stored != "int8" else stored)
