"""TPUs to compile for on a machine that has none; to be imported before jax."""

import dataclasses
import os
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a process may wait for another that compiles
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU: its topology, and peaks for bfloat16 and memory."""

    topology: str
    flops: float  # per second, by its maker
    compiler_flops: float  # by its compiler
    bandwidth: float  # bytes per second
    hertz: float  # that its cycles and its peak imply
    cores: int = 1  # of what JAX calls a device


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 197e12, 819e9, 1.503e9),
    "v5p": Chip("v5p:2x2x1", 459e12, 394e12, 2765e9, 1.751e9, cores=2),
    "v6e": Chip("v6e:2x2", 918e12, 918e12, 1640e9, 1.751e9),
}


def topology_of(chip: str) -> Any:
    """Return the devices that programs are compiled for; ends the process without a compiler."""
    from jax.experimental import topologies

    from cola_jax.errors import first_line

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip].topology)
    except (NotImplementedError, RuntimeError) as error:
        raise SystemExit(
            f"jax has no compiler for TPUs here ({first_line(error)}): pip install libtpu."
        ) from None
