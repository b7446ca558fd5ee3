"""The memory of a device, and how much of it buffers may take by default."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jax

from cola_jax.errors import InputError

SHARE = 0.5  # of what is free, by default
GROUPS = Path("/sys/fs/cgroup")  # limits of containers and services on Linux
OWN_GROUPS = Path("/proc/self/cgroup")


def default_budget(device: Any, weights: int) -> int:
    """Returns the bytes that buffers may take on a device: half of what the weights leave.

    `weights` are their bytes on the device. What is free there is measured on an accelerator. A
    CPU's share is one of all the memory that there can be, so that a run which is resumed on the
    same machine cuts its matrix products as before, and its results are equal to the bit.
    """
    memory = device_memory(device)
    if device.platform == "cpu":
        return int(SHARE * max(memory - weights, memory / 4))  # the rest may be swapped
    return int(SHARE * (memory - device.memory_stats()["bytes_in_use"]))


def device_memory(device: Any) -> int:
    """Returns the bytes of a device's memory; those of a machine, over its CPU devices."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min([machine, *group_limits()]) // len(jax.local_devices(backend="cpu"))
    stats: Any = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise InputError(f"{device} does not report its memory: give a memory budget in bytes.")
    return stats["bytes_limit"]


def group_limits() -> Iterator[int]:
    """Yields the memory limits of the control groups that this process is in, of both versions."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = GROUPS, "memory.max"
        if controllers:
            root, name = GROUPS / "memory", "memory.limit_in_bytes"
        group = PurePosixPath(own.lstrip("/"))
        for folder in (group, *group.parents):
            try:
                yield int((root / folder / name).read_text())
            except (OSError, ValueError):  # no limit: "max", or no such file
                continue
