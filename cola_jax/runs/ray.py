"""`RayEngine`: maps batches of questions to results on the machines of a Ray cluster.

The driver hands out batches to workers, and hands out again those that a lost worker had in
progress. It alone writes results.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cola_jax import checkpoint
from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError, first_line, shown
from cola_jax.execute.memory import Memory, limits_of
from cola_jax.execute.plan import Workload
from cola_jax.metrics import Metrics
from cola_jax.params import INT8, Int8, Model
from cola_jax.progress import metrics_bar
from cola_jax.runs.actor import CALLS, Facts, ModelPlace, RayWorker, versions
from cola_jax.runs.batches import Batch, BatchFunction, MakeBatch, PathVerdicts, SetAside, Work
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluator import BatchEvaluator, EncodedQuestions, question_batches
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

# an extra, without which a `RayEngine` cannot be made; a folder of that name has no origin
SPEC = importlib.util.find_spec("ray")
HAS_RAY = SPEC is not None and SPEC.origin is not None
if TYPE_CHECKING or HAS_RAY:
    import ray
    from ray import ObjectRef as Ref
    from ray.exceptions import RayActorError, RayError, RayTaskError
else:
    Ref = RayError = Any  # in annotations

log = logging.getLogger(__name__)
ATTEMPTS = 3  # workers that a batch ends before it is set aside
STARTS = 3  # workers, one after the other, that end before they have loaded the model
LOOPBACK = "127.0.0.1"
CHUNK = 256 << 20  # bytes of a file that are sent at a time


@dataclasses.dataclass(eq=False)
class RemoteWorker:
    """A worker as the driver sees it."""

    actor: Any
    facts: Facts | None = None  # None until it has started
    place: ModelPlace | None = None  # of the model that it has loaded, or is loading
    slots: int = 0  # batches at once; 0 until the model is loaded
    running: int = 0
    alone: bool = False  # runs a batch that has ended another worker

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.facts.host if self.facts else "a new machine"

    def takes(self, attempts: int) -> bool:
        """Return whether it can take a batch, which runs alone where it has ended a worker."""
        return not self.alone and self.running < (min(self.slots, 1) if attempts else self.slots)


class RayEngine:
    """The workers of a Ray cluster, as many as it has resources for, also of later machines."""

    def __init__(
        self,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        *,
        tensor: int = 1,
    ):
        """Connect to a cluster, and start one worker.

        Args:
          address: such as ray://HOST:PORT; by default the cluster of RAY_ADDRESS or of this
            machine, which is started where there is none, for this machine alone.
          resources: of each worker, such as {"TPU": 4}; by default all TPUs of a machine, else
            `tensor` GPUs, else all CPUs of the smallest machine.

        Raises InputError where Ray is not installed, there is no such cluster, no machine has the
        resources, and where the worker's versions differ from this process's.
        """
        if not HAS_RAY:
            raise InputError("many machines need Ray: pip install 'cola-jax[ray]'.")
        if not isinstance(resources, Mapping | None):
            raise InputError(
                f'resources must be a dict such as {{"TPU": 4}}, not {shown(resources)}.'
            )
        os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # a spare worker always waits
        handler = signal.getsignal(signal.SIGTERM)
        try:
            connect(address)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster was found at {address or 'RAY_ADDRESS'} ({first_line(error)}): "
                "start one with `ray start --head`, or give ray://HOST:PORT. For a cluster with a "
                "token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where it is no file here."
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's would abort the process
        self.resources, self.tensor = choose_resources(resources, tensor), tensor
        self.workers: list[RemoteWorker] = []
        self.refused: list[RemoteWorker] = []  # keep the resources of machines that cannot be used
        self.starting: dict[Ref, RemoteWorker] = {}
        self.job: tuple[Work, Ref] | None = None  # the present work
        self.files: dict[str, dict[str, list[Ref]]] = {}  # of checkpoints, by digest
        self.failed = 0  # starts, one after another
        log.info("waiting for a machine with %s", describe_resources(self.resources))
        self.facts: Facts = self.ask("facts", versions())

    def new_actor(self) -> Any:
        """Make an actor, which starts once a machine has its resources.

        Raises InputError for resources that Ray refuses.
        """
        other = dict(self.resources)
        amounts = {"num_cpus": other.pop("CPU", 0), "num_gpus": other.pop("GPU", 0)}
        options = {**amounts, "resources": other, "max_concurrency": CALLS}
        try:
            make = ray.remote(RayWorker).options(**options)
        except ValueError as error:
            asked = describe_resources(self.resources)
            raise InputError(f"a worker cannot take {asked}: {first_line(error)}") from error
        return make.remote()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the first worker, or of another if it ends; raises its errors."""
        for attempt in range(STARTS):
            try:
                if not self.workers:
                    worker = RemoteWorker(self.new_actor())
                    worker.facts = ray.get(worker.actor.facts.remote(versions()))
                    self.workers.append(worker)
                return ray.get(getattr(self.workers[0].actor, method).remote(*arguments))
            except RayTaskError as error:
                raise error.cause or error from error
            except RayActorError as error:
                self.workers = self.workers[1:]
                if attempt + 1 == STARTS:
                    raise InputError(
                        f"{STARTS} workers ended ({first_line(error)}): install cola-jax on all "
                        "machines, give workers more memory, and see the logs of Ray."
                    ) from error

    def record(self) -> dict[str, Any]:
        """Return the facts for the record of a start."""
        workers = describe_resources(self.resources)
        return {"engine": "ray", "workers": workers, "device": self.facts.device}

    def memory(self, handle: ModelHandle) -> Memory:
        """Return the memory of a model's workers, as the first one finds it."""
        place = ModelPlace.of(handle)
        if (memory := self.ask("memory", place)) is None:
            self.ask("receive", place, self.sent(place))
            memory = self.ask("memory", place)
        return memory

    def sent(self, place: ModelPlace) -> dict[str, list[Ref]]:
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

        Returns the indices and the workload of each. Every device of the present cluster gets some.
        """
        limits, whole = limits_of(self.facts.backend), ray.cluster_resources()
        workers = min(whole.get(name, 0) // each for name, each in self.resources.items())
        plan = question_batches(questions, workload, first, limits)
        copies = max(self.facts.devices // self.tensor, 1)  # of the model, on each worker
        parts = max(int(workers), 1) * copies * limits.threads
        cut = plan.cut(left, parts, batch_size or limits.questions)
        return [(part, workload._replace(prefix=plan.prefixes[part[0]])) for part in cut]

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
        place = ModelPlace.of(handle)
        if self.job is None or self.job[0] is not work:
            self.job = work, ray.put(work)
        job, waiting = [self.job[1]], collections.deque((each, 0) for each in batches)
        running: dict[Ref, tuple[RemoteWorker, tuple[np.ndarray, Workload], int]] = {}
        try:
            while waiting or running:
                self.grow(place, len(waiting))
                metrics.machines = len({w.facts.node for w in self.workers if w.facts})
                for worker in self.workers:
                    while waiting and worker.takes(waiting[0][1]):
                        batch, attempts = waiting.popleft()
                        worker.running, worker.alone = worker.running + 1, attempts > 0
                        reference = worker.actor.run.remote(job, make(*batch))
                        running[reference] = worker, batch, attempts
                for reference in ended([*running, *self.starting]):
                    if reference in self.starting:
                        self.go_on_starting(reference)
                        continue
                    worker, batch, attempts = running.pop(reference)
                    worker.running, worker.alone = worker.running - 1, False
                    try:
                        result, amounts = ray.get(reference)
                    except RayTaskError as error:
                        raise error.cause or error from error
                    except RayError as error:
                        if not self.machine_remains(worker, error):
                            waiting.appendleft((batch, attempts))
                        elif attempts + 1 < ATTEMPTS:
                            waiting.append((batch, attempts + 1))
                        else:
                            set_aside(batch[0], first_line(error), worker.host)
                        log.warning("%d questions were in progress there", len(batch[0]))
                    else:
                        metrics.add(**amounts)
                        yield batch[0], result, worker.host
        finally:
            for worker, _, _ in running.values():  # after an error
                worker.running, worker.alone = 0, False

    def evaluator(
        self, handle: ModelHandle, encoded: Sequence[Encoded], scorer: Scorer, **options: Any
    ) -> "RayEvaluator":
        """Make a function from paths of questions to verdicts; `options` as `RayEvaluator`'s."""
        return RayEvaluator(self, handle, encoded, scorer, **options)

    def evaluator_of(
        self, model: Model, encoded: Sequence[Encoded], scorer: Scorer, **options: Any
    ) -> "RayEvaluator":
        """Make the same for a model that is loaded here; InputError without a checkpoint."""
        if model.checkpoint is None:
            raise InputError("this model was not loaded from a checkpoint, which workers can load.")
        if checkpoint.digest_of(model) != checkpoint.read_metadata(model.checkpoint)["digest"]:
            raise InputError(
                "this model was changed after it was loaded, and workers of Ray would load its "
                "checkpoint: leave out the engine."
            )
        layers = jax.tree.leaves(model.layers, is_leaf=lambda x: isinstance(x, Int8))
        eight = any(isinstance(weight, Int8) for weight in layers)
        dtype = INT8 if eight else str(model.embedding.dtype)
        handle = ModelHandle(model.checkpoint, Devices(), dtype, self)
        return self.evaluator(handle, encoded, scorer, model=model, **options)

    def grow(self, place: ModelPlace, waiting: int) -> None:
        """Load the model on workers that lack it, and start others while batches wait."""
        for worker in self.workers:
            if worker.place != place and worker not in self.starting.values():
                worker.place, worker.slots = place, 0
                self.starting[worker.actor.load.remote(place)] = worker
        free = sum(worker.slots - worker.running for worker in self.workers)
        if waiting > free and len(self.starting) < max(1, len(self.workers)):
            worker = RemoteWorker(self.new_actor())
            self.starting[worker.actor.facts.remote(versions())] = worker

    def go_on_starting(self, reference: Ref) -> None:
        """Take the end of a step of a worker's start, and begin the next."""
        worker = self.starting.pop(reference)
        place = worker.place
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            if not any(other.slots for other in self.workers):
                raise error.cause or error from error
            log.warning("a machine is left out: %s", first_line(error.cause or error))
            self.refused.append(worker)
            self.workers = [other for other in self.workers if other is not worker]
        except RayError as error:
            self.failed += self.machine_remains(worker, error)
            if self.failed >= STARTS and not any(other.slots for other in self.workers):
                raise InputError(
                    f"{STARTS} workers ended before they had loaded the model "
                    f"({first_line(error)}): give them more memory, and see the logs of Ray."
                ) from error
        else:
            if place is None:  # its first step
                worker.facts = result
                self.workers.append(worker)  # `grow` loads the model
            elif result is None:  # its machine does not have the checkpoint
                self.starting[worker.actor.receive.remote(place, self.sent(place))] = worker
            elif result is True:  # now it does
                self.starting[worker.actor.load.remote(place)] = worker
            else:
                worker.slots, self.failed = result, 0

    def machine_remains(self, worker: RemoteWorker, error: RayError) -> bool:
        """Forget a worker that has ended; return whether its machine, if known, remains."""
        if worker in self.workers or worker.facts is None:
            self.workers = [other for other in self.workers if other is not worker]
            ray.kill(worker.actor)
            log.warning("a worker on %s has ended: %s", worker.host, first_line(error))
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return worker.facts is None or worker.facts.node in alive


def connect(address: str | None) -> None:
    """Connect to a cluster, by default that of RAY_ADDRESS or of this machine, or start one.

    Whoever reaches the ports of a cluster can run code on it, and Ray opens them to the network by
    default. One that is started here listens on the loopback interface alone.
    """
    options: dict[str, Any] = {
        "ignore_reinit_error": True,
        "logging_level": logging.ERROR,
        "log_to_driver": log.isEnabledFor(logging.DEBUG),
    }
    target = address or os.environ.get("RAY_ADDRESS") or "auto"
    if target == "auto":
        try:
            ray.init("auto", **options)
        except ConnectionError:  # there is none
            target = "local"
    elif target != "local":
        ray.init(target, **options)
    if target == "local":
        with on_loopback():
            ray.init("local", include_dashboard=False, **options)
        addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
        if addresses != {LOOPBACK}:
            log.warning("the ports of Ray are open on %s: use a firewall", ", ".join(addresses))


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray start a cluster of one machine, as it does by default on macOS and Windows.

    Its own parameter for the address of a machine turns 127.0.0.1 into that of the network.
    """
    try:
        from ray._private import ray_constants

        before = ray_constants.ENABLE_RAY_CLUSTER
    except (ImportError, AttributeError):  # a part of Ray that another version may lack
        log.warning(
            "this version of Ray (%s) may open its ports to the network: use a firewall, or "
            "install another version",
            ray.__version__,
        )
        yield
        return
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class RayEvaluator(BatchEvaluator):
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
        model: Model | None = None,
    ):
        """Take the arguments as `ModelEvaluator` does; the model if it is loaded here as well."""
        self.engine, self.handle, self.scorer = engine, handle, scorer
        self.encoded, self.first = list(encoded), encoded if first is None else first
        if model is not None:
            asked_with = {"batch_size": batch_size}
            self.asked = EncodedQuestions(model, scorer, self.encoded, asked_with)
        self.questions = [each.question for each in encoded]
        self.num_layers, self.work = handle.config.num_layers, PathVerdicts(scorer)
        self.batch_size, self.metrics = batch_size, metrics or Metrics()

    def evaluate_batches(
        self, paths: np.ndarray, workload: Workload, questions: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, Verdicts]]:
        """Evaluate the paths [B, C, P] of some questions; yield indices and verdicts."""

        def batch(indices: np.ndarray, workload: Workload) -> Batch:
            return Batch([self.encoded[i] for i in indices], workload, paths=paths[indices])

        return self.map(self.work, workload, batch, questions)

    def over_batches(
        self,
        function: Callable[[Evaluate, np.ndarray], Any],
        workload: Workload,
        evaluations: int | None,
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Call a function of an `Evaluate` and indices for each batch, on its worker.

        `evaluations` are expected of all batches, None where unknown.
        """

        def batch(indices: np.ndarray, workload: Workload) -> Batch:
            return Batch([self.encoded[i] for i in indices], workload, indices=indices)

        metrics = self.metrics
        metrics.total = metrics.earlier + metrics.evaluations + evaluations if evaluations else 0
        work, every = BatchFunction(self.scorer, function), range(len(self.encoded))
        with metrics_bar(metrics):
            yield from self.map(work, workload, batch, every)

    def map(
        self, work: Work, workload: Workload, batch: MakeBatch, left: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Do the work on batches of questions; yield indices and results."""
        engine, size = self.engine, self.batch_size
        batches = engine.batches(self.encoded, left, workload, self.first, size)
        results = engine.map(self.handle, work, batches, batch, self.metrics, refuse)
        yield from ((indices, result) for indices, result, _ in results)


def refuse(indices: np.ndarray, reason: str, machine: str) -> None:
    """Raise InputError for questions that cannot be set aside."""
    raise InputError(
        f"{len(indices)} questions ended {ATTEMPTS} workers, the last on {machine} ({reason}): "
        "give smaller batches, or workers with more memory."
    )


def ended(references: list[Ref]) -> list[Ref]:
    """Wait for one or more calls to end, a second at most; return those that have."""
    done, _ = ray.wait(references, timeout=1)
    return ray.wait(references, num_returns=len(references), timeout=0)[0] if done else []


def chunks_of(file: Path) -> Iterator[np.ndarray]:
    """Read a file in parts, as arrays of bytes."""
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            yield np.frombuffer(chunk, np.uint8)


def parse_resources(text: str) -> dict[str, float]:
    """Read the resources of a worker, such as TPU=4,CPU=8."""
    resources = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^=\s]+)\s*=\s*(\d+(?:\.\d+)?)\s*", part)
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
        cpus = min((m["CPU"] for m in machines if m.get("CPU")), default=1)
        asked = {"TPU": tpus} if tpus else {"GPU": tensor} if gpus else {"CPU": cpus}
    if not any(all(m.get(name, 0) >= n for name, n in asked.items()) for m in machines):
        found = dict.fromkeys(
            describe_resources({k: m[k] for k in m if ":" not in k and "memory" not in k})
            for m in machines
        )
        raise InputError(
            f"no machine of the cluster has {describe_resources(asked)} (they have "
            f"{'; '.join(found)}): give --worker-resources, or start machines that have them."
        )
    return dict(asked)
