"""`RayWorker`: an actor of Ray with a model on the devices of its machine."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import queue
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

import cola_jax
from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.engine.devices import Devices
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.transfer import Files, Weights, write_files
from cola_jax.engine.work import Batch, Work
from cola_jax.errors import InputError
from cola_jax.execute.memory import Memory
from cola_jax.execute.worker import Worker
from cola_jax.files import building, hold, keep_programs
from cola_jax.formats import cache
from cola_jax.metrics import Metrics
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.scorer import Scorer

if TYPE_CHECKING:
    from ray import ObjectRef  # its package is an extra: methods of a worker import it

CALLS = 64  # of a worker at a time, at most
ENCODERS = 8  # that a worker keeps, and the object store
DECISIVE = ("jax", "jaxlib", "transformers")  # for results, by their minor versions
FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


class ModelPlace(NamedTuple):
    """A model as workers load it."""

    source: str | None  # of the checkpoint, which may be its URL
    directory: str | None  # of the checkpoint on the driver
    digest: str
    dtype: str
    devices: Devices  # and how to use them
    sharing: int | None = None  # batches that share the memory of a worker; by its backend if None
    weights: Weights | None = None  # of a model in memory that is not its checkpoint's

    @classmethod
    def of(cls, model: ModelHandle, devices: Devices) -> "ModelPlace":
        """Return the place of a model whose weights are those of its checkpoint."""
        directory = model.directory and str(checkpoint.absolute(model.directory))
        return cls(model.source, directory, model.digest, model.dtype, devices)

    @property
    def key(self) -> tuple[str, str, Devices]:
        """The key of a loaded model: models with equal keys are the same."""
        return self.digest, self.dtype, self.devices

    @property
    def received(self) -> Path:
        """The folder of the cache for a checkpoint that the driver sends."""
        return cache.root() / f"{checkpoint.LAYOUT}-{self.digest[:16]}"

    def find(self) -> str | None:
        """Return a directory with the checkpoint on this machine, or None.

        Raises InputError for a URL that cannot be read.
        """
        for place in filter(None, (self.source, self.directory, str(self.received))):
            found = cache.ready(place)
            with contextlib.suppress(InputError, OSError):
                if found and checkpoint.read_metadata(found)["digest"] == self.digest:
                    return found
        return None


class WorkerFacts(NamedTuple):
    """The machine of a worker."""

    node: str  # its id in the cluster
    host: str
    backend: str
    device: str
    devices: int


class Job(NamedTuple):
    """A serialized work: without its model, and with its encoder as a separate object.

    Calls unpack references that are arguments, and none inside of them.
    """

    work: "ObjectRef"
    encoder: "ObjectRef"


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a worker and the driver must have in common."""
    minor = {name: ".".join(version(name).split(".")[:2]) for name in DECISIVE}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **minor, "code of cola-jax": code_digest()}


def code_digest() -> str:
    """Return a digest of the code of this package, which a tag or commit may not tell."""
    folder = Path(cola_jax.__file__).parent
    code = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        code.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        code.update(file.read_bytes())
    return code.hexdigest()[:12]


class RayWorker:
    """An actor with a model on the devices of a machine, and its current work."""

    def __init__(self):
        self.lock = threading.Lock()
        self.engine = LocalEngine()
        self.model: ModelHandle | None = None
        self.loaded: tuple[str, str, Devices] | None = None  # the key of its place
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.job: tuple[str, Work] | None = None
        self.encoders: dict[str, Encoder] = {}
        self.entered: dict[int, tuple[Scorer, contextlib.ExitStack]] = {}
        self.metrics = Metrics()

    def facts(self, expected: Mapping[str, str]) -> WorkerFacts:
        """Describe the machine; InputError where its versions are not those of the driver.

        Its signature is the same in all versions of this package, so that they can be compared.
        """
        import ray

        host = platform.node()
        for name, found in versions().items():
            if found != expected.get(name):
                raise InputError(
                    f"the machine {host} has {name} {found}, and this one {expected.get(name)}: "
                    "install the same on both."
                )
        keep_programs()  # too late for JAX to read the variables, as this class is loaded with it
        jax.config.update(FOLDER.lower(), os.environ[FOLDER])
        jax.config.update(LEAST.lower(), float(os.environ[LEAST]))
        local = jax.local_devices()
        node = ray.get_runtime_context().get_node_id()
        backend = local[0].platform
        return WorkerFacts(node, host, backend, f"{backend} {local[0].device_kind}", len(local))

    def memory(self, devices: Devices, config: ModelConfig, dtype: str) -> Memory:
        """Return the memory of the workers of a model."""
        return LocalEngine(devices).memory(config, dtype)

    def load(self, place: ModelPlace) -> int | None:
        """Load a model; return the batches that run at once, None where it is not found."""
        directory = place.find()
        self.idle = queue.SimpleQueue()
        self.job = None
        if self.model is None or self.loaded != place.key:
            self.model = None  # frees the one before
            self.engine = LocalEngine(place.devices)
            if place.weights is not None:
                self.model = ModelHandle.of(
                    place.weights.load(self.engine.devices.mesh(CALLS), directory)
                )
            elif directory is not None:
                self.model = ModelHandle(directory, place.dtype)
            else:
                return None
            self.loaded = place.key
        workers = self.engine.workers(self.model, place.sharing, self.metrics)
        slots = workers * workers[0].memory.sharing
        for worker in slots:
            self.idle.put(worker)
        return len(slots)

    def receive(self, place: ModelPlace, files: Files) -> bool:
        """Write the files of a checkpoint, which the workers of a machine do once.

        Raises InputError where they are those of another.
        """
        folder = place.received
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(folder.with_suffix(".lock")):
            if place.find() is None:
                with building(folder) as partial:
                    write_files(files, partial)
            if place.find() is None:
                raise InputError(
                    f"the checkpoint {place.source} is not what it was when this command began: "
                    "start it again."
                )
        return True

    def run(self, job: Job, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Do the work on a batch; return its result, and the counts since the last call.

        Parts of the result that are complete before its end are not kept.
        """
        work = self.open(job)
        idle = self.idle
        worker = idle.get()
        try:
            return work(worker, batch, drop), self.metrics.take()
        except Exception:
            worker.drop_buffers()
            raise
        finally:
            idle.put(worker)

    def open(self, job: Job) -> Work:
        """Return the present work, with the model and the encoder of this process."""
        import ray

        with self.lock:
            key = job.work.hex()
            if self.job is None or self.job[0] != key:
                encoder = self.encoders.pop(job.encoder.hex(), None) or ray.get(job.encoder)
                self.encoders[job.encoder.hex()] = encoder  # the last one
                for old in list(self.encoders)[:-ENCODERS]:
                    del self.encoders[old]
                work = dataclasses.replace(ray.get(job.work), model=self.model, encoder=encoder)
                self.enter(work.scorers)
                self.job = key, work
            return self.job[1]

    def enter(self, scorers: Sequence[Scorer]) -> None:
        """Enter the scorers of a work, which other works may have entered, and leave all others."""
        wanted = {id(scorer): scorer for scorer in scorers}
        for key in self.entered.keys() - wanted.keys():
            self.entered.pop(key)[1].close()
        for key in wanted.keys() - self.entered.keys():
            stack = contextlib.ExitStack()
            stack.enter_context(wanted[key])
            self.entered[key] = wanted[key], stack


def drop(part: Any) -> None:
    """Drop a partial result, since the complete one contains it."""
