"""Which devices a session uses, as a mesh with axes `data` and `tensor`, and how much of them."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from cola_jax.errors import InputError
from cola_jax.runs.nvidia import check_driver, cuda_packages, driver_version

if TYPE_CHECKING:
    from jax.sharding import Mesh

Device = Literal["cpu", "gpu", "cuda", "tpu"]


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of this host that run the model; of several hosts, each uses its own."""

    device: Device | None = None
    """Kind of device to run on: cpu, gpu or tpu; the fastest that JAX finds by default."""
    data: int | None = None
    """Copies of the model, each on its own devices with its own questions; as many as there are
    devices for by default."""
    tensor: int = 1
    """Devices that split the weights of one copy, by heads and MLP width."""
    memory_budget: str | None = None
    """Memory for states and caches on each device beside the weights, such as 2GB or 50%; by
    default half of what the weights leave, of which a run takes no more than it can use."""
    rows: int | None = None
    """States that run a layer together; chosen for the backend by default."""

    def __post_init__(self):
        if self.rows is not None:
            from cola_jax.execute.memory import check_rows

            check_rows(self.rows)
        for name in ("data", "tensor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, it is {value}.")
        if self.memory_budget is not None:
            from cola_jax.execute.memory import parse_bytes, parse_share

            if parse_share(self.memory_budget) is None:
                parse_bytes(self.memory_budget)

    @property
    def budget(self) -> int | None:
        """The memory budget in bytes; a share is one of a device's memory."""
        if self.memory_budget is None:
            return None
        from cola_jax.execute.device_memory import device_memory
        from cola_jax.execute.memory import parse_bytes, parse_share

        share = parse_share(self.memory_budget)
        if share is None:
            return parse_bytes(self.memory_budget)
        import jax

        return int(share * device_memory(jax.local_devices()[0]))

    def check_backend(self) -> None:
        """Lets JAX run on the kind of device asked for; ValueError where it cannot.

        Also where nobody asked, but JAX is installed for a GPU that it cannot use.
        """
        import jax

        config: Any = jax.config  # whose type stubs lack some names
        chosen = self.device == "cpu" or config.jax_platforms  # by the user
        if not chosen and jax.default_backend() == "cpu":
            check_driver(driver_version(), cuda_packages())
        if self.device is None:
            return
        wanted = "gpu" if self.device == "cuda" else self.device
        if wanted == "cpu":  # the others are what JAX chooses itself where they are there
            jax.config.update("jax_platforms", "cpu")
        found = jax.default_backend()
        if found != wanted:
            install = {"tpu": "cola-jax[tpu]", "gpu": "cola-jax[cuda13]", "cpu": "cola-jax"}
            raise InputError(
                f"the device asked for is {self.device}, but JAX runs on {found} here: install "
                f"{install[wanted]}, and look at JAX_PLATFORMS and at who else holds the devices."
            )

    def mesh(self, questions: int) -> "Mesh | None":
        """Returns the mesh for so many questions, None where one device is all there is to it.

        Raises ValueError where the devices are not there or do not divide, or where there are
        more copies of the model than questions.
        """
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh

        self.check_backend()
        devices = jax.local_devices()
        if self.tensor > len(devices) or (self.data is None and len(devices) % self.tensor):
            raise InputError(
                f"tensor {self.tensor} does not divide the {len(devices)} devices of this host: "
                "choose another, or give data as well."
            )
        data = min(len(devices) // self.tensor, questions) if self.data is None else self.data
        if data * self.tensor > len(devices):
            raise InputError(
                f"data {data} times tensor {self.tensor} needs {data * self.tensor} devices, this "
                f"host has {len(devices)}: {[str(device) for device in devices]}."
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


def choose_dtype(asked: str | None, stored: str) -> str:
    """Returns the dtype of weights and activations: that which is asked for, if any.

    By default it is the stored one, but float32 on a CPU, where bfloat16 is faster only with matrix
    units. Raises ValueError for float16 on a CPU, whose products XLA cannot sum in float32 there.
    """
    import jax

    cpu = jax.default_backend() == "cpu"
    if asked == "float16" and cpu:
        raise InputError("a CPU does not run float16: give --dtype float32 or bfloat16.")
    return asked or ("float32" if cpu else stored)
