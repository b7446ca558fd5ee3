"""Whether the NVIDIA driver of a machine is new enough for the CUDA packages that are installed."""

import functools
import importlib.util
import logging
import re
from pathlib import Path

from cola_jax.errors import InputError

DRIVER = Path("/proc/driver/nvidia/version")
LEAST = {13: 580, 12: 525}  # version of CUDA: that of the driver which JAX asks for on Linux

log = logging.getLogger(__name__)


@functools.cache  # so that a process warns once, however often devices are asked for
def check_driver(driver: int | None, installed: tuple[int, ...]) -> None:
    """Says why JAX finds no GPU on a machine that has one.

    Args:
      driver: the version of the NVIDIA driver, as `driver_version` reads it; None without one.
      installed: versions of CUDA that JAX has packages for.

    Raises ValueError where the driver is too old for these packages. Where there are none, a
    warning names those that fit.
    """
    if driver is None:
        return
    fitting = [cuda for cuda, least in LEAST.items() if driver >= least]
    fix = f"pip install 'cola-jax[cuda{fitting[0]}]'" if fitting else "install a newer driver"
    if not installed:
        log.warning(
            "this machine has an NVIDIA GPU, but JAX has no packages for it and runs on the CPU: "
            "%s.",
            fix,
        )
    elif not set(installed) & set(fitting):
        (cuda, *_) = installed
        raise InputError(
            f"the NVIDIA driver {driver} is too old for the packages of cola-jax[cuda{cuda}], "
            f"which need {LEAST[cuda]}: {fix}, or set JAX_PLATFORMS=cpu to run on the CPU."
        )


def driver_version() -> int | None:
    """Returns the major version of the NVIDIA driver that is loaded, None without one."""
    try:
        found = re.search(r"Kernel Module\D*(\d+)\.", DRIVER.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


def cuda_packages() -> tuple[int, ...]:
    """Returns the versions of CUDA that JAX has packages for."""
    return tuple(cuda for cuda in LEAST if importlib.util.find_spec(f"jax_cuda{cuda}_plugin"))
