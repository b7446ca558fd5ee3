"""Several hosts: each is started with the same command, takes its own questions, and works alone.

They meet once, at the start, to learn that all are there and mean the same. After that there is no
connection left, so that a host that dies takes no other with it.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_jax.runs.directory import Shard

LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")  # of the workers of a slice


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts that share a task, each started with the same command."""

    distributed: bool = False
    """Meet the other hosts by JAX's distributed runtime and take a slice of the questions; hosts
    of Cloud TPU, GKE, Slurm and Open MPI find each other by themselves."""
    coordinator: str | None = None
    """HOST:PORT of the first host, where they do not."""
    num_hosts: int | None = None
    """How many there are, with --coordinator."""
    host: int | None = None
    """Which one this is, from 0, with --coordinator."""
    wait: int = 300
    """Seconds to wait for the others at the start."""

    def __post_init__(self):
        given = [self.coordinator is not None, self.num_hosts is not None, self.host is not None]
        if any(given) and not (all(given) and self.distributed):
            raise ValueError(
                "--coordinator, --num-hosts and --host belong together, and to --distributed."
            )
        if self.num_hosts is not None and not 0 <= (self.host or 0) < self.num_hosts:
            raise ValueError(f"host {self.host} is not one of 0 to {self.num_hosts - 1}.")
        if self.wait < 1:
            raise ValueError(f"wait must be at least 1 second, it is {self.wait}.")

    def join(self) -> "Shard":
        """Meets the other hosts, before anything else uses JAX; returns this one's shard.

        Ends the process with a message where they do not come in time. Raises ValueError where
        this is one host of a TPU slice that was not told so: it would wait for the others
        without a word.
        """
        from cola_jax.runs.directory import WHOLE, Shard

        if not self.distributed:
            workers = max(len(os.environ.get(name, "").split(",")) for name in LISTS)
            if workers > 1 and "TPU_PROCESS_BOUNDS" not in os.environ:
                raise ValueError(
                    f"this is one of {workers} hosts of a TPU slice: start the same command with "
                    "--distributed on all of them."
                )
            return WHOLE
        import jax

        # otherwise a SIGTERM would be swallowed for good
        jax.config.update("jax_enable_preemption_service", False)
        with self.patience("come"):
            jax.distributed.initialize(
                self.coordinator,
                self.num_hosts,
                self.host,
                # a given place needs no detection, which would also divide the host's devices
                cluster_detection_method="deactivate" if self.coordinator else None,
                # longer than our own patience: JAX would end the process without saying why
                initialization_timeout=self.wait + 60,
                shutdown_timeout_seconds=10,
            )
            return Shard(jax.process_index(), jax.process_count())

    def agree(self, shard: "Shard", settings: Mapping[str, Any], *, together: bool) -> None:
        """Compares the settings of all hosts, and parts from them.

        `together` says that devices of this host will exchange data with each other. Raises
        ValueError that names the hosts whose settings are not those of the first. Arrays and
        devices from before are not to be used any more.
        """
        if not self.distributed:
            return
        import jax
        import numpy as np
        from jax.experimental.multihost_utils import process_allgather
        from jax.extend.backend import clear_backends

        text = json.dumps([dict(settings), shard.count], sort_keys=True)
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        with self.patience("get as far as this one"):
            every = np.asarray(process_allgather(digest)).reshape(-1, len(digest))
            jax.distributed.shutdown()
        if together and jax.default_backend() != "tpu":
            # the devices of this host would still ask the other hosts before they exchange
            # anything; the old client is kept for good, since freeing it joins threads that may
            # themselves wait for this one
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(jax.local_devices()[0].client))
            clear_backends()
        strangers = [i for i, other in enumerate(every) if (other != every[0]).any()]
        if strangers:
            raise ValueError(
                f"hosts {strangers} have another configuration than host 0 (the checkpoint, the "
                f"task or a flag differs); this is host {shard.index}: start all with the same "
                "command and files."
            )

    @contextlib.contextmanager
    def patience(self, what: str) -> Iterator[None]:
        """Ends the process with a message where its body takes too long.

        JAX waits in native code that no exception interrupts.
        """

        def give_up():
            sys.stderr.write(
                f"error: the other hosts did not {what} within {self.wait} s: start the same "
                "command on every host, and look at what each says.\n"
            )
            sys.stderr.flush()
            os._exit(1)

        timer = threading.Timer(self.wait, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
