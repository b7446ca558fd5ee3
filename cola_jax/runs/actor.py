"""`RayWorker`: an actor of Ray with a model on the devices of its machine."""

import contextlib
import os
import platform
import queue
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from cola_jax import checkpoint
from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError
from cola_jax.execute.memory import Memory, default_limits
from cola_jax.execute.worker import Worker, Workers
from cola_jax.files import building, hold, keep_programs
from cola_jax.formats import cache
from cola_jax.metrics import Metrics
from cola_jax.runs.batches import Batch, Work
from cola_jax.runs.schema import EVALUATIONS, encode_part
from cola_jax.storage import is_url

if TYPE_CHECKING:
    from ray import ObjectRef  # its package is an extra: methods of a worker import it

CALLS = 64  # of a worker at a time, at most
PACKAGES = ("cola-jax", "jax", "transformers")
FOLDER, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


class ModelPlace(NamedTuple):
    """A model as workers load it."""

    directory: str  # of the checkpoint
    digest: str
    dtype: str
    devices: Devices

    @classmethod
    def of(cls, handle: ModelHandle) -> "ModelPlace":
        """Return the place of a model."""
        source = handle.source if is_url(handle.source) else handle.directory
        directory = str(checkpoint.absolute(source))
        return cls(directory, handle.metadata["digest"], handle.dtype, handle.devices)

    @property
    def received(self) -> Path:
        """The folder of the cache for a checkpoint that the driver sends."""
        return cache.root() / f"{checkpoint.LAYOUT}-{self.digest[:16]}"

    def find(self) -> str | None:
        """Return a directory with the checkpoint on this machine, or None.

        Raises InputError for a URL that cannot be read.
        """
        for directory in (self.directory, str(self.received)):
            try:
                if is_url(directory):
                    directory = cache.find(directory)
                metadata = checkpoint.read_metadata(directory)
            except (InputError, OSError):
                if is_url(self.directory):
                    raise
                continue
            if metadata["digest"] == self.digest:
                return directory
        return None


class Facts(NamedTuple):
    """The machine of a worker."""

    node: str  # its id in the cluster
    host: str
    backend: str
    device: str
    devices: int


def versions() -> dict[str, str]:
    """Return the versions that a worker and the driver must have in common."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


class RayWorker:
    """An actor: a model on the devices of a machine, and the work that it was given last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.job, self.scorers = "", contextlib.ExitStack()  # of the present work
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.metrics = Metrics()

    def facts(self, expected: Mapping[str, str]) -> Facts:
        """Describe the machine; InputError where its versions are not those of the driver."""
        import ray

        host = platform.node()
        for name, found in versions().items():
            if found != expected[name]:
                raise InputError(
                    f"the machine {host} has {name} {found}, and this one {expected[name]}: "
                    "install the same version on both."
                )
        keep_programs()  # too late for JAX to read the variables, as this class is loaded with it
        jax.config.update(FOLDER.lower(), os.environ[FOLDER])
        jax.config.update(LEAST.lower(), float(os.environ[LEAST]))
        devices, node = jax.local_devices(), ray.get_runtime_context().get_node_id()
        backend = devices[0].platform
        return Facts(node, host, backend, f"{backend} {devices[0].device_kind}", len(devices))

    def memory(self, place: ModelPlace) -> Memory | None:
        """Return the memory of the model's workers, None where the checkpoint is not found."""
        directory = place.find()
        if directory is None:
            return None
        return ModelHandle(directory, place.devices, place.dtype).memory

    def load(self, place: ModelPlace) -> int | None:
        """Load a model; return the batches that run at once, None where it is not found."""
        directory = place.find()
        if directory is None:
            return None
        self.idle = queue.SimpleQueue()  # frees the model before
        handle = ModelHandle(directory, place.devices, place.dtype)
        model = handle.load(place.devices.mesh(CALLS), self.metrics)
        workers = Workers(
            model,
            threads=default_limits().threads,
            memory_budget=handle.memory.budget,
            tile_tokens=place.devices.tile_tokens,
            metrics=self.metrics,
        )
        for worker in workers.workers * workers.threads:
            self.idle.put(worker)
        return workers.batches_at_once

    def receive(self, place: ModelPlace, files: Mapping[str, Sequence["ObjectRef"]]) -> bool:
        """Write the files of a checkpoint, which the workers of a machine do once."""
        import ray

        folder = place.received
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(folder.with_suffix(".lock")):
            if place.find() is None:
                with building(folder) as partial:
                    for name, chunks in files.items():
                        (partial / name).parent.mkdir(parents=True, exist_ok=True)
                        with (partial / name).open("wb") as file:
                            for chunk in chunks:
                                file.write(ray.get(chunk))
        return True

    def run(self, job: Sequence["ObjectRef"], batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Do the work on a batch; return its result, and the counts since the last call."""
        import ray

        (reference,) = job  # in a list, or each call would unpack the work
        with self.lock:
            if self.job != reference.hex():
                self.scorers.close()
                self.work: Work = ray.get(reference)
                for scorer in self.work.scorers:
                    self.scorers.enter_context(scorer)
                self.job = reference.hex()
            work = self.work
        worker = self.idle.get()
        try:
            result = work(worker, batch)
            if batch.mark is not None:  # the driver would take longer for it than for all else
                content = encode_part(EVALUATIONS, result.evaluations, batch.mark)
                result = result._replace(evaluations=content)
            return result, self.metrics.take()
        finally:
            self.idle.put(worker)
