"""Several hosts: each is started with the same command, and runs its own shard of the questions.

They connect once, at the start, to check that all are there with the same settings. Then they
disconnect, so that a host that dies does not end the others.
"""

import contextlib
import ctypes
import dataclasses
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from cola_jax.errors import InputError, first_line
from cola_jax.question import digest

WORKER_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")  # the workers of a slice


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `count`-th question, from `index` on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `0/4`, the first of four."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise InputError(f"shard {text!r} is not one of 0/N to N-1/N, such as 0/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard(0, 1)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts that share a task, each started with the same command."""

    distributed: bool = False
    """Connect to the other hosts with JAX's distributed runtime, and run a shard of the questions;
    hosts of Cloud TPU, GKE, Slurm and Open MPI are found automatically."""
    coordinator: str | None = None
    """HOST:PORT of the first host, where hosts are not found automatically."""
    num_hosts: int | None = None
    """Number of hosts, with --coordinator."""
    host: int | None = None
    """Index of this host, from 0, with --coordinator."""
    wait: int = 300
    """Seconds to wait for the other hosts at the start."""

    def __post_init__(self):
        present = [each is not None for each in (self.coordinator, self.num_hosts, self.host)]
        if any(present) and not (all(present) and self.distributed):
            raise InputError(
                "--coordinator, --num-hosts and --host belong together, and to --distributed."
            )
        if self.num_hosts is not None and not 0 <= (self.host or 0) < self.num_hosts:
            raise InputError(f"host {self.host} is not one of 0 to {self.num_hosts - 1}.")

    def join(self) -> Shard:
        """Connect to the other hosts, before anything else uses JAX; return this host's shard.

        Ends the process after `wait` seconds. Raises InputError where no hosts are found, and on a
        host of a TPU slice without --distributed, which would wait silently.
        """
        if not self.distributed:
            workers = max(len(os.environ.get(name, "").split(",")) for name in WORKER_LISTS)
            if workers > 1 and "TPU_PROCESS_BOUNDS" not in os.environ:
                raise InputError(
                    f"this is one of {workers} hosts of a TPU slice: start the same command with "
                    "--distributed on all of them."
                )
            return WHOLE
        import jax

        # otherwise a SIGTERM would be swallowed for good
        jax.config.update("jax_enable_preemption_service", False)
        with self.timeout("connect"):
            try:
                jax.distributed.initialize(
                    self.coordinator,
                    self.num_hosts,
                    self.host,
                    # a given index needs no detection, which would also divide the host's devices
                    cluster_detection_method="deactivate" if self.coordinator else None,
                    # longer than our own timeout: JAX ends the process without a reason
                    initialization_timeout=self.wait + 60,
                    shutdown_timeout_seconds=10,
                )
            except Exception as error:  # of types that differ with the cluster
                raise InputError(
                    f"no hosts to connect to were found ({first_line(error)}): give --coordinator, "
                    "--num-hosts and --host, or leave --distributed out on a single host."
                ) from error
            return Shard(jax.process_index(), jax.process_count())

    def agree(self, shard: Shard, settings: Mapping[str, Any], *, together: bool) -> None:
        """Compare the settings of all hosts, and disconnect; earlier arrays become invalid.

        `together` is whether devices of this host exchange data.
        """
        if not self.distributed:
            return
        import jax
        import numpy as np
        from jax.experimental.multihost_utils import process_allgather
        from jax.extend.backend import clear_backends

        own = np.frombuffer(digest(settings, shard.count).encode(), np.uint8)
        with self.timeout("load the task"):
            every = np.asarray(process_allgather(own)).reshape(-1, len(own))
            jax.distributed.shutdown()
        if together and jax.default_backend() != "tpu":
            # or the devices of this host would contact the other hosts before they exchange data;
            # the old client is never freed: that joins threads that may wait for this one
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(jax.local_devices()[0].client))
            clear_backends()
        differing = [i for i, other in enumerate(every) if (other != every[0]).any()]
        if differing:
            raise InputError(
                f"hosts {differing} have different settings than host 0 (the checkpoint, the task "
                f"or a flag differs); this is host {shard.index}: start all with the same command "
                "and files."
            )

    @contextlib.contextmanager
    def timeout(self, action: str) -> Iterator[None]:
        """End the process if its body takes too long: no exception interrupts native code."""

        def end_process():
            text = (
                f"error: the other hosts did not {action} within {self.wait} s: start the same "
                "command on every host, and check the output of each."
            )
            print(text, file=sys.stderr, flush=True)
            os._exit(1)

        timer = threading.Timer(self.wait, end_process)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
