"""`RayEngine`: maps batches of questions to results on the machines of a Ray cluster.

Each worker is an actor with the model on the devices of its machine. The driver hands out batches,
and hands out again those that a lost worker had in progress. It alone writes results.
"""

import collections
import dataclasses
import logging
import os
import platform
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cola_jax import checkpoint
from cola_jax.errors import InputError, first_line
from cola_jax.execute.inputs import Paths, pad_paths
from cola_jax.execute.memory import Memory, limits_of
from cola_jax.execute.metrics import Metrics
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker, Workers
from cola_jax.files import building, hold, is_url, keep_programs
from cola_jax.formats import cache
from cola_jax.path import STOP
from cola_jax.runs.batches import Batch, MakeBatch, PathVerdicts, SetAside, Work
from cola_jax.runs.devices import Devices
from cola_jax.runs.session import ModelHandle
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluator import question_batches
from cola_jax.scoring.scorer import most_options
from cola_jax.scoring.verdicts import Verdicts

log = logging.getLogger(__name__)
ATTEMPTS = 3  # workers that a batch ends before it is set aside
STARTS = 3  # workers, one after the other, that may end before they have loaded the model
CHUNK = 256 << 20  # bytes of a file that are sent at a time
PACKAGES = ("cola-jax", "jax", "transformers")
FOLDER, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
CALLS = 64  # of a worker at a time, at most


class ModelPlace(NamedTuple):
    """A model as workers load it."""

    directory: str  # of the checkpoint
    digest: str
    dtype: str
    devices: Devices

    @classmethod
    def of(cls, handle: ModelHandle) -> "ModelPlace":
        """Return the place of a model."""
        digest = checkpoint.model_digest(handle.metadata)
        directory = str(checkpoint.absolute(handle.directory))
        return cls(directory, digest, handle.dtype, handle.devices)

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
                metadata = checkpoint.read_metadata(directory)
            except (InputError, OSError):
                if is_url(directory):
                    raise
                continue
            if checkpoint.model_digest(metadata) == self.digest:
                return directory
        return None


class Facts(NamedTuple):
    """The machine of a worker."""

    node: str  # its id in the cluster
    host: str
    backend: str
    device: str


def versions() -> dict[str, str]:
    """Return the versions that a worker and the driver must have in common."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


class RayWorker:
    """An actor: a model on the devices of a machine, and the work that it was given last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.jobs: dict[str, Work] = {}
        self.place: ModelPlace | None = None
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.metrics = Metrics()

    def facts(self, expected: Mapping[str, str]) -> Facts:
        """Describe the machine; InputError where its versions are not those of the driver."""
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
        device, node = jax.local_devices()[0], ray.get_runtime_context().get_node_id()
        return Facts(node, host, device.platform, f"{device.platform} {device.device_kind}")

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
        handle = ModelHandle(directory, place.devices, place.dtype)
        model = handle.load(place.devices.mesh(CALLS), self.metrics)
        workers = Workers(
            model,
            threads=limits_of(jax.default_backend()).threads,
            memory_budget=handle.memory.budget,
            tile_tokens=place.devices.tile_tokens,
            metrics=self.metrics,
        )
        self.idle = queue.SimpleQueue()
        for worker in workers.workers * workers.threads:
            self.idle.put(worker)
        return workers.batches_at_once

    def receive(self, place: ModelPlace, files: Mapping[str, Sequence[ray.ObjectRef]]) -> bool:
        """Write the files of a checkpoint, which the workers of a machine do once."""
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

    def run(self, job: Sequence[ray.ObjectRef], batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Do the work on a batch; return its result, and what was counted since the last call."""
        (reference,) = job  # in a list, or each call would unpack the work
        with self.lock:
            work = self.jobs.get(reference.hex())
            if work is None:
                work = self.jobs[reference.hex()] = ray.get(reference)
                for scorer in work.scorers:
                    scorer.__enter__()  # until the worker ends
        worker = self.idle.get()
        try:
            return work(worker, batch), self.metrics.take()
        finally:
            self.idle.put(worker)


@dataclasses.dataclass(eq=False)
class RemoteWorker:
    """A worker as the driver sees it."""

    actor: Any
    facts: Facts | None = None  # None until it has started
    place: ModelPlace | None = None  # that it has loaded, or is loading
    slots: int = 0  # batches at once; 0 until the model is loaded
    running: int = 0
    alone: bool = False  # runs a batch that has ended another worker

    def takes(self, attempts: int) -> bool:
        """Return whether it can take a batch, which runs alone where it has ended a worker."""
        return not self.alone and self.running < (min(self.slots, 1) if attempts else self.slots)


class RayEngine:
    """The workers of a Ray cluster; as many as it has machines for, also of later ones."""

    def __init__(
        self,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        *,
        tensor: int = 1,
    ):
        """Connect to a cluster, and start one worker.

        Args:
          address: of the cluster, such as ray://HOST:PORT; that of RAY_ADDRESS or of this machine
            by default, or else a cluster of this machine alone.
          resources: of each worker, such as {"TPU": 4}; by default all TPUs of a machine, else
            `tensor` GPUs, else all CPUs of the smallest machine.

        Raises InputError where there is no such cluster, no machine has the resources, and where
        the worker's versions differ from this process's.
        """
        os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # or it warns of a spare worker
        try:
            ray.init(address, ignore_reinit_error=True, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise InputError(
                f"no Ray cluster was found at {address or 'RAY_ADDRESS'} ({first_line(error)}): "
                "start one with `ray start --head`, or give ray://HOST:PORT."
            ) from error
        self.resources = choose_resources(resources, tensor)
        self.workers: list[RemoteWorker] = []
        self.refused: list[RemoteWorker] = []  # which keep their machines from being tried again
        self.starting: dict[ray.ObjectRef, RemoteWorker] = {}
        self.files: dict[str, dict[str, list[ray.ObjectRef]]] = {}  # of checkpoints, by digest
        self.failed = 0  # starts, one after another
        log.info("waiting for a machine with %s", describe_resources(self.resources))
        first = RemoteWorker(self.actor())
        self.facts = first.facts = call(first.actor.facts, versions())
        self.workers.append(first)

    def actor(self) -> Any:
        """Make an actor, which starts once a machine has its resources."""
        other = dict(self.resources)
        return (
            ray.remote(RayWorker)
            .options(
                num_cpus=other.pop("CPU", 0),
                num_gpus=other.pop("GPU", 0),
                resources=other,
                max_concurrency=CALLS,
            )
            .remote()
        )

    @property
    def machines(self) -> int:
        """The number of machines with a worker."""
        return len({worker.facts.node for worker in self.workers if worker.facts})

    def record(self) -> dict[str, Any]:
        """Return the facts for the record of a start."""
        workers = describe_resources(self.resources)
        return {"engine": "ray", "workers": workers, "device": self.facts.device}

    def memory(self, handle: ModelHandle) -> Memory:
        """Return the memory of a model's workers, as the first one finds it."""
        place, first = ModelPlace.of(handle), self.workers[0]
        memory = call(first.actor.memory, place)
        if memory is None:
            call(first.actor.receive, place, self.sent(place))
            memory = call(first.actor.memory, place)
        return memory

    def sent(self, place: ModelPlace) -> dict[str, list[ray.ObjectRef]]:
        """Put the files of a checkpoint into the cluster, once."""
        if place.digest not in self.files:
            folder = Path(place.directory)
            self.files[place.digest] = {
                str(file.relative_to(folder)): [ray.put(chunk) for chunk in chunks_of(file)]
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
        return self.files[place.digest]

    def batches(
        self,
        questions: Sequence[Encoded],
        left: Sequence[int],
        workload: Workload,
        first: Sequence[Encoded],
        batch_size: int | None,
    ) -> list[tuple[np.ndarray, Workload]]:
        """Cut the questions `left` into batches, as an evaluator on the workers' devices does.

        Returns the indices and the workload of each. Every worker of the present cluster gets some.
        """
        limits, whole = limits_of(self.facts.backend), ray.cluster_resources()
        fitting = min(whole.get(name, 0) // each for name, each in self.resources.items())
        plan = question_batches(questions, workload, first, limits)
        cut = plan.cut(left, int(fitting) * limits.threads, batch_size or limits.questions)
        prefixes = (plan.prefixes[indices[0]] for indices in cut)
        return [(i, workload._replace(prefix=n)) for i, n in zip(cut, prefixes, strict=True)]

    def run(self, handle: ModelHandle, work: Work, batch: Batch) -> Any:
        """Do the work on one batch, and return its result."""
        one = [(np.arange(len(batch.encoded)), batch.workload)]
        results = self.map(handle, work, one, lambda *_: batch, Metrics(), refuse)
        return next(results)[1]

    def map(
        self,
        handle: ModelHandle,
        work: Work,
        batches: Sequence[tuple[np.ndarray, Workload]],
        make: MakeBatch,
        metrics: Metrics,
        set_aside: SetAside,
    ) -> Iterator[tuple[np.ndarray, Any, str]]:
        """Do the work on batches; yield their indices, results and machines as they end.

        Args:
          batches: the indices of the questions of each, and its workload.
          make: makes a batch from these, when it is handed out.
          set_aside: called with the indices of a batch that ended `ATTEMPTS` workers on machines
            that went on.

        The first error of the work ends the others and is raised.
        """
        place, job = ModelPlace.of(handle), ray.put(work)
        waiting = collections.deque((batch, 0) for batch in batches)
        running: dict[ray.ObjectRef, tuple[RemoteWorker, tuple[np.ndarray, Workload], int]] = {}
        try:
            while waiting or running:
                self.grow(place, len(waiting))
                metrics.machines = self.machines
                for worker in self.workers:
                    while waiting and worker.takes(waiting[0][1]):
                        batch, attempts = waiting.popleft()
                        worker.running, worker.alone = worker.running + 1, attempts > 0
                        made = make(*batch)._replace(write=None)
                        running[worker.actor.run.remote([job], made)] = worker, batch, attempts
                for reference in ended([*running, *self.starting]):
                    if reference in self.starting:
                        self.finish_start(reference, place)
                        continue
                    worker, batch, attempts = running.pop(reference)
                    worker.running, worker.alone = worker.running - 1, False
                    try:
                        result, amounts = ray.get(reference)
                    except RayTaskError as error:
                        raise error.cause or error from error
                    except RayError as error:
                        if not self.goes_on(worker, error):
                            waiting.appendleft((batch, attempts))
                        elif attempts + 1 < ATTEMPTS:
                            waiting.append((batch, attempts + 1))
                        else:
                            set_aside(batch[0], first_line(error), host_of(worker))
                    else:
                        metrics.add(**amounts)
                        yield batch[0], result, host_of(worker)
        finally:
            for reference, (worker, _, _) in running.items():  # after an error
                worker.running, worker.alone = worker.running - 1, False
                ray.cancel(reference)

    def evaluator(
        self, handle: ModelHandle, encoded: Sequence[Encoded], scorer: Scorer, **options: Any
    ) -> "RayEvaluator":
        """Make a function from paths of questions to verdicts; `options` as `RayEvaluator`'s."""
        return RayEvaluator(self, handle, encoded, scorer, **options)

    def grow(self, place: ModelPlace, waiting: int) -> None:
        """Load the model on workers that lack it, and start others while batches wait."""
        for worker in self.workers:
            if worker.place != place:
                worker.place, worker.slots = place, 0
                self.starting[worker.actor.load.remote(place)] = worker
        free = sum(worker.slots - worker.running for worker in self.workers)
        if waiting > free and len(self.starting) < max(1, len(self.workers)):
            worker = RemoteWorker(self.actor())
            self.starting[worker.actor.facts.remote(versions())] = worker

    def finish_start(self, reference: ray.ObjectRef, place: ModelPlace) -> None:
        """Take the end of a step of a worker's start, and begin the next."""
        worker = self.starting.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            if not any(other.slots for other in self.workers):
                raise error.cause or error from error
            log.warning("a machine is left out: %s", first_line(error.cause or error))
            self.refused.append(worker)
            self.workers = [other for other in self.workers if other is not worker]
            return
        except RayError as error:
            self.failed += self.goes_on(worker, error)
            if self.failed >= STARTS:
                raise InputError(
                    f"{STARTS} workers ended before they had loaded the model "
                    f"({first_line(error)}): give them more memory, and see the logs of Ray."
                ) from error
            return
        if isinstance(result, Facts):
            worker.facts = result
            self.workers.append(worker)  # `grow` loads the model
        elif result is None:
            self.starting[worker.actor.receive.remote(place, self.sent(place))] = worker
        elif result is True:
            self.starting[worker.actor.load.remote(place)] = worker
        else:
            worker.slots, self.failed = result, 0

    def goes_on(self, worker: RemoteWorker, error: RayError) -> bool:
        """Forget a worker if it has ended; return whether its machine goes on."""
        if isinstance(error, RayActorError) and worker in self.workers:
            self.workers.remove(worker)
            ray.kill(worker.actor)
            log.warning("a worker on %s has ended: %s", host_of(worker), first_line(error))
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return worker.facts is not None and worker.facts.node in alive


class RayEvaluator:
    """A function from paths to verdicts of encoded questions, on the workers of an engine."""

    def __init__(
        self,
        engine: RayEngine,
        handle: ModelHandle,
        encoded: Sequence[Encoded],
        scorer: Scorer,
        *,
        first: Sequence[Encoded] | None = None,
        batch_size: int | None = None,
        metrics: Metrics | None = None,
    ):
        """Take the arguments as `ModelEvaluator` does."""
        self.engine, self.handle, self.scorer = engine, handle, scorer
        self.encoded, self.first = list(encoded), encoded if first is None else first
        self.questions = [each.question for each in encoded]
        self.num_layers = handle.config.num_layers
        self.batch_size, self.metrics = batch_size, metrics or Metrics()

    def __call__(self, paths: Paths) -> Verdicts:
        """Evaluate paths [B, C, P], STOP-padded, or for each question a list of paths."""
        padded = pad_paths(paths, len(self.encoded), self.num_layers)
        out = Verdicts.empty(padded.shape[:2], most_options(self.encoded))
        questions = np.flatnonzero((padded[:, :, 0] != STOP).any(axis=1)).tolist()
        workload = Workload(*padded.shape[1:], same=bool((padded == padded[:1]).all()))

        def batch(indices: np.ndarray, workload: Workload) -> Batch:
            return Batch([self.encoded[i] for i in indices], workload, paths=padded[indices])

        batches = self.engine.batches(
            self.encoded, questions, workload, self.first, self.batch_size
        )
        work, engine = PathVerdicts(self.scorer), self.engine
        for indices, verdicts, _ in engine.map(
            self.handle, work, batches, batch, self.metrics, refuse
        ):
            out.put((indices,), verdicts)
        return out


def refuse(indices: np.ndarray, reason: str, machine: str) -> None:
    """Raise InputError for questions that cannot be set aside."""
    raise InputError(
        f"{len(indices)} questions ended {ATTEMPTS} workers, the last on {machine} ({reason}): "
        "give smaller batches, or workers with more memory."
    )


def call(method: Any, *arguments: Any) -> Any:
    """Call a method of an actor, and wait for its result; raises the errors of the method."""
    try:
        return ray.get(method.remote(*arguments))
    except RayTaskError as error:
        raise error.cause or error from error
    except RayActorError as error:
        raise InputError(
            f"the first worker ended ({first_line(error)}): install cola-jax on all machines, and "
            "see the logs of Ray."
        ) from error


def ended(references: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """Wait for one or more calls to end, a second at most; return those that have."""
    done, _ = ray.wait(references, timeout=1)
    return ray.wait(references, num_returns=len(references), timeout=0)[0] if done else []


def host_of(worker: RemoteWorker) -> str:
    """Return the name of a worker's machine."""
    return worker.facts.host if worker.facts else "a new machine"


def chunks_of(file: Path) -> Iterator[np.ndarray]:
    """Read a file in parts, as arrays of bytes."""
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            yield np.frombuffer(chunk, np.uint8)


def parse_resources(text: str) -> dict[str, float]:
    """Read the resources of a worker, such as TPU=4,CPU=8."""
    resources = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([0-9.]+)\s*", part)
        if not match or not float(match[2]):
            raise InputError(f"the resources {text!r} of a worker are not such as TPU=4,CPU=8.")
        resources[match[1]] = float(match[2])
    return resources


def describe_resources(resources: Mapping[str, float]) -> str:
    """Write resources as `parse_resources` reads them."""
    return ",".join(f"{name}={value:g}" for name, value in resources.items())


def choose_resources(asked: Mapping[str, float] | None, tensor: int) -> dict[str, float]:
    """Return the resources of a worker; InputError where no machine has them.

    By default all TPUs of a machine, else `tensor` GPUs, else all CPUs of the smallest machine.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if asked is None:
        tpus = max(machine.get("TPU", 0) for machine in machines)
        gpus = max(machine.get("GPU", 0) for machine in machines)
        cpus = min(machine["CPU"] for machine in machines if machine.get("CPU"))
        asked = {"TPU": tpus} if tpus else {"GPU": tensor} if gpus else {"CPU": cpus}
    if not any(all(m.get(name, 0) >= n for name, n in asked.items()) for m in machines):
        kinds = {name for m in machines for name in m if ":" not in name and "memory" not in name}
        found = "; ".join(describe_resources({k: m[k] for k in kinds & set(m)}) for m in machines)
        raise InputError(
            f"no machine of the cluster has {describe_resources(asked)} (they have {found}): give "
            "--worker-resources, or start machines that have them."
        )
    return dict(asked)
