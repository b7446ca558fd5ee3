"""`Hosts`: processes of one slice, each started with the same command, that share a run.

They connect once, to count themselves; the manifest of the run tells whether they agree. Then each
goes on alone, so that one that dies does not end the others.
"""

import ctypes
import dataclasses
import os
import sys
import threading
from typing import TYPE_CHECKING

from cola_jax.errors import InputError, first_line

if TYPE_CHECKING:  # flags import this file, and JAX would take seconds
    from cola_jax.engine.engine import QuestionShare

WORKER_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")  # the workers of a slice


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts that share a task, each started with the same command."""

    distributed: bool = False
    """Connect to the other hosts with JAX's distributed runtime, and run a share of the questions;
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

    def join(self) -> "QuestionShare":
        """Connect to the other hosts before anything else uses JAX; return this host's share.

        Ends the process after `wait` seconds. Raises InputError where no hosts are found, and on a
        host of a TPU slice without --distributed, which would wait silently.
        """
        from cola_jax.engine.engine import QuestionShare

        if not self.distributed:
            workers = max(len(os.environ.get(name, "").split(",")) for name in WORKER_LISTS)
            if workers > 1 and "TPU_PROCESS_BOUNDS" not in os.environ:
                raise InputError(
                    f"this is one of {workers} hosts of a TPU slice: start the same command with "
                    "--distributed on all of them."
                )
            return QuestionShare()
        import jax
        import numpy as np
        from jax.experimental.multihost_utils import broadcast_one_to_all
        from jax.extend.backend import clear_backends

        # otherwise a SIGTERM would be swallowed for good
        jax.config.update("jax_enable_preemption_service", False)
        timer = threading.Timer(self.wait, self.give_up)  # no exception interrupts native code
        timer.daemon = True
        timer.start()
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.num_hosts,
                self.host,
                # a given index needs no detection, which would also divide the host's devices
                cluster_detection_method="deactivate" if self.coordinator else None,
                # longer than our own: JAX ends the process without a reason
                initialization_timeout=self.wait + 60,
                shutdown_timeout_seconds=10,
            )
            start = int(broadcast_one_to_all(np.random.default_rng().integers(1 << 30)))
            share = QuestionShare(jax.process_index(), jax.process_count(), f"{start:08x}")
            jax.distributed.shutdown()
        except Exception as error:  # of types that differ with the cluster
            raise InputError(
                f"no hosts to connect to were found ({first_line(error)}): give --coordinator, "
                "--num-hosts and --host, or leave --distributed out on a single host."
            ) from error
        finally:
            timer.cancel()
        if jax.default_backend() != "tpu":
            # or devices of this host would contact the others before they exchange data; the old
            # client is never freed: that joins threads that may wait for this one
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(jax.local_devices()[0].client))
            clear_backends()
        return share

    def give_up(self) -> None:
        """End the process, with the reason."""
        text = (
            f"error: the other hosts did not connect within {self.wait} s: start the same command "
            "on every host, and check the output of each."
        )
        print(text, file=sys.stderr, flush=True)
        os._exit(1)
