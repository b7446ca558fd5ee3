"""`RayEngine`: does work on the machines of a Ray cluster.

The driver hands out batches to workers, each an actor with a model, and hands out again what a
worker does not finish. Machines may come and go.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola_jax.engine.actor import CALLS, ENCODERS, Job, ModelPlace, RayWorker, WorkerFacts, versions
from cola_jax.engine.cluster import (
    HAS_RAY,
    REMIND,
    choose_resources,
    connect,
    describe_resources,
    inherited,
    places_for,
)
from cola_jax.engine.devices import Devices
from cola_jax.engine.dispatch import Dispatch, Ticket
from cola_jax.engine.engine import Capacity, Machine, QuestionShare
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.pauses import Pauses
from cola_jax.engine.transfer import Files, Weights, put_files
from cola_jax.engine.work import Batch, Work
from cola_jax.errors import InputError, count, first_line, shown
from cola_jax.execute.memory import Memory, limits_of
from cola_jax.metrics import Metrics
from cola_jax.scoring.encoder import Encoder

if TYPE_CHECKING or HAS_RAY:
    import ray
    from ray import ObjectRef
    from ray.exceptions import (
        NodeDiedError,
        OutOfMemoryError,
        RayActorError,
        RayError,
        RayTaskError,
        WorkerCrashedError,
    )

    # of calls whose worker has ended, or cannot be reached
    ENDED = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
else:
    ObjectRef = RayError = RayTaskError = Any  # in annotations

log = logging.getLogger(__name__)
STARTS = 3  # failures, one after the other, to start a worker where there is none
WAIT = 1.0  # seconds for calls to end, before the driver looks at the rest


@dataclasses.dataclass(eq=False)
class RemoteWorker:
    """A worker as the driver sees it."""

    actor: Any
    facts: WorkerFacts | None = None  # None until it has started
    place: ModelPlace | None = None  # of the model that it has loaded, or is loading
    slots: int = 0  # batches at once; 0 until the model is loaded

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.facts.host if self.facts else "a new machine"

    @property
    def machine(self) -> str | None:
        """The name and the id of its machine, as machines may share a name; None until known."""
        return f"{self.facts.host} ({self.facts.node[:8]})" if self.facts else None


class RayEngine:
    """The workers of a Ray cluster, as many as it has resources for, also of later machines."""

    def __init__(
        self,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        *,
        devices: Devices | None = None,
        batch_size: int | None = None,
    ):
        """Connect to a cluster, and start one worker.

        Args:
          address: such as ray://HOST:PORT; by default the cluster of RAY_ADDRESS or of this
            machine, which is started where there is none, for this machine alone.
          resources: of each worker, such as {"TPU": 4}; by default all TPUs of a machine, else a
            GPU for each of `devices.tensor`, else all CPUs of the smallest machine. Where no
            machine has any, the engine waits for one.
          devices: how each worker uses those of its machine.
          batch_size: the most questions of a batch.

        Raises InputError where Ray is not installed, there is no such cluster, machines have less
        of the resources, and where the versions of all workers differ from this process's.
        """
        if not HAS_RAY:
            raise InputError("many machines need Ray: pip install 'cola-jax[ray]'.")
        if not isinstance(resources, Mapping | None):
            raise InputError(
                f'resources must be a dict such as {{"TPU": 4}}, not {shown(resources)}.'
            )
        is_own = connect(address)
        self.devices = devices or Devices()
        self.batch_size = batch_size
        self.resources = choose_resources(resources, self.devices.tensor, grows=not is_own)
        self.share = QuestionShare()
        self.workers: list[RemoteWorker] = []
        self.refused: list[RemoteWorker] = []  # keep the resources of machines that cannot be used
        self.starting: dict[ObjectRef, RemoteWorker] = {}
        self.failures = 0  # to start a worker, one after the other
        self.pauses = Pauses()
        self.files: dict[str, Files] = {}  # of checkpoints, by digest
        self.weights: dict[str, Weights] = {}  # of models in memory, by digest
        # in the object store, by id, with the encoder, which keeps its id
        self.encoders: dict[int, tuple[Encoder, ObjectRef]] = {}
        self.memories: dict[tuple[str, str], Memory] = {}
        self.reminded = time.monotonic()
        self.facts = self.first_worker().facts

    # Capacity

    @property
    def backend(self) -> str:
        """The backend of JAX on the workers."""
        return self.facts.backend

    def record(self, model: ModelHandle) -> dict[str, Any]:
        """Return the facts for the record of a start with a model."""
        workers = describe_resources(self.resources)
        return {"engine": "ray", "workers": workers, "device": self.facts.device}

    def capacity(self, model: ModelHandle, questions: int) -> Capacity:
        """Return the capacity for a model; every device of the present cluster gets batches."""
        limits = limits_of(self.backend)
        copies = max(self.facts.devices // self.devices.tensor, 1)  # of the model, on each worker
        parts = max(places_for(self.resources), 1) * copies * limits.threads
        size = self.batch_size
        memory = self.memory(model)
        return Capacity(memory, parts, size or limits.questions, size or limits.decode_questions)

    def memory(self, model: ModelHandle) -> Memory:
        """Return the memory of a model's workers, as the first one finds it."""
        key = repr(model.config), model.dtype
        facts = self.devices, model.config, model.dtype
        while key not in self.memories:
            worker = self.first_worker()
            try:
                found: Any = ray.get(worker.actor.memory.remote(*facts))
            except RayTaskError as error:
                raise cause_of(error) from error
            except RayError as error:
                self.forget(worker, error)
                self.count_failure(worker, error)
            else:
                self.memories[key] = found
        return self.memories[key]

    def free(self) -> None:
        """Free nothing: the devices of this process have no part in the work."""

    # Work

    def map(
        self, work: Work, batches: Iterable[Batch], metrics: Metrics | None = None
    ) -> Generator[tuple[Batch, Any, Machine], None, None]:
        """Do the work on batches; yields and raises as `Engine.map`, and keeps no parts."""
        metrics = metrics or Metrics()
        dispatch = Dispatch(batches, divisible=work.divisible, pauses=self.pauses)
        if not dispatch.waiting:
            return
        place = self.place_of(work)
        job = self.job_of(work)
        for worker in self.workers:
            if worker.place == place and worker.slots:
                dispatch.join(worker, worker.machine, worker.slots)
        running: dict[ObjectRef, Ticket] = {}
        try:
            while not dispatch.finished:
                while (ticket := dispatch.hand_out()) is not None:
                    running[ticket.worker.actor.run.remote(job, ticket.batch)] = ticket
                self.grow(place, dispatch)
                self.remind(dispatch)
                metrics.machines = len({w.facts.node for w in self.workers if w.facts})
                for reference in ended([*running, *self.starting]):
                    if reference in running:
                        ticket = running.pop(reference)
                        machine = ticket.worker.host
                        for batch, result in self.end(reference, ticket, dispatch, metrics):
                            yield batch, result, machine
                    else:
                        worker = self.go_on_starting(reference)
                        if worker is not None and worker.place == place:
                            dispatch.join(worker, worker.machine, worker.slots)
                for ticket in still_running(dispatch.overdue(), running):
                    for batch, failed in dispatch.expire(ticket):
                        yield batch, failed, ticket.worker.host
                for worker in dispatch.hung():
                    self.end_hung(worker, dispatch)
        finally:
            # a batch that was late may never end; others that an error leaves behind will
            for worker in {t.worker: None for t in running.values() if t.replaced}:
                self.end_hung(worker, dispatch)

    def place_of(self, work: Work) -> ModelPlace:
        """Return the place of the model of a work; puts weights that no checkpoint has."""
        model = work.model
        weights = None
        if model.is_changed:
            if model.digest not in self.weights:
                self.weights = {model.digest: Weights(model.load())}
            weights = self.weights[model.digest]
        place = ModelPlace.of(model, self.devices)
        return place._replace(sharing=work.sharing, weights=weights)

    def job_of(self, work: Work) -> Job:
        """Put a work into the object store, and its encoder, which other works may share, once."""
        encoder, reference = self.encoders.pop(id(work.encoder), (work.encoder, None))
        reference = reference or ray.put(encoder)
        self.encoders[id(encoder)] = encoder, reference  # the last one
        for old in list(self.encoders)[:-ENCODERS]:
            del self.encoders[old]
        bare: Any = dataclasses.replace(work, **dict.fromkeys(("model", "encoder")))
        return Job(ray.put(bare), reference)

    def end(
        self, reference: ObjectRef, ticket: Ticket, dispatch: Dispatch, metrics: Metrics
    ) -> Iterator[tuple[Batch, Any]]:
        """Take the end of a batch; yield its result if it counts, and what is set aside."""
        try:
            result, amounts = ray.get(reference)
        except RayTaskError as error:
            yield from dispatch.fail(ticket, cause_of(error))
        except ENDED as error:
            self.forget(ticket.worker, error, dispatch)
            if has_machine(ticket.worker):
                yield from dispatch.crash(ticket, first_line(error))
            else:
                yield from dispatch.lose(ticket)
        except RayError as error:  # such as a result that the object store has lost
            yield from dispatch.fail(ticket, error)
        else:
            metrics.add(**amounts)
            if dispatch.succeed(ticket):
                yield ticket.batch, result

    def forget(
        self, worker: RemoteWorker, error: Exception, dispatch: Dispatch | None = None
    ) -> None:
        """Remove a worker that has ended, once."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)
        log.warning("a worker on %s has ended: %s", worker.host, first_line(error))
        if dispatch is not None and worker in dispatch.joined:
            dispatch.leave(worker, failed=has_machine(worker))

    def end_hung(self, worker: RemoteWorker, dispatch: Dispatch) -> None:
        """End a worker that has not finished a batch long after its time."""
        self.forget(worker, TimeoutError("it did not finish a batch in time"), dispatch)

    # Workers

    def first_worker(self) -> Any:
        """Return a worker, starting one where there is none; raises as `go_on_starting`."""
        self.reminded = time.monotonic()
        while not self.workers:
            if not self.starting:
                self.start()
            for reference in ended([*self.starting]):
                self.go_on_starting(reference)
            self.remind()
        return self.workers[0]

    def remind(self, dispatch: Dispatch | None = None) -> None:
        """Log from time to time that no worker is available."""
        now = time.monotonic()
        if dispatch is not None and dispatch.joined:
            self.reminded = now
        elif now - self.reminded > REMIND:
            self.reminded = now
            wanted = describe_resources(self.resources)
            log.warning("no worker is ready: waiting for a machine with %s to start one", wanted)

    def start(self) -> None:
        """Make an actor, which starts once a machine has its resources.

        Raises InputError for resources that Ray refuses.
        """
        if remaining := self.pauses.remaining(None):
            time.sleep(remaining)
        other = dict(self.resources)
        amounts = {"num_cpus": other.pop("CPU", 0), "num_gpus": other.pop("GPU", 0)}
        options = {
            **amounts,
            "resources": other,
            "max_concurrency": CALLS,
            "runtime_env": {"env_vars": inherited()},
        }
        try:
            worker = RemoteWorker(ray.remote(RayWorker).options(**options).remote())
        except ValueError as error:
            asked = describe_resources(self.resources)
            raise InputError(f"a worker cannot take {asked}: {first_line(error)}") from error
        self.starting[worker.actor.facts.remote(versions())] = worker

    def grow(self, place: ModelPlace, dispatch: Dispatch) -> None:
        """Load the model on workers that lack it, and start others while batches wait."""
        for worker in self.workers:
            lacks = worker.place != place and worker not in self.starting.values()
            if lacks and not self.pauses.remaining(worker.machine):
                worker.place = place
                worker.slots = 0
                self.starting[worker.actor.load.remote(place)] = worker
        room = len(self.starting) < max(1, len(self.workers))
        if dispatch.waiting and room and not self.pauses.remaining(None):
            self.start()

    def go_on_starting(self, reference: ObjectRef) -> RemoteWorker | None:
        """Take the end of a step of a worker's start, and begin the next.

        Returns the worker once it has loaded its model. Raises InputError where no machine is left
        that a worker could start on.
        """
        worker = self.starting.pop(reference)
        place = worker.place
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            cause = cause_of(error)
            if isinstance(cause, InputError):
                self.leave_out(worker, cause)
            else:
                worker.place = None  # `grow` loads the model again, after a pause
                self.count_failure(worker, cause)
        except RayError as error:
            if worker in self.workers:
                self.forget(worker, error)
            self.count_failure(worker, error)
        else:
            if place is None:  # its first step
                worker.facts = result
                self.workers.append(worker)  # `grow` loads the model
            elif result is None:  # its machine does not have the checkpoint
                self.starting[worker.actor.receive.remote(place, self.sent(place))] = worker
            elif result is True:  # now it does
                self.starting[worker.actor.load.remote(place)] = worker
            else:
                worker.slots = result
                self.failures = 0
                self.pauses.succeed(None)
                return worker
        return None

    def leave_out(self, worker: RemoteWorker, error: InputError) -> None:
        """Exclude a machine; raises the error if no other is left."""
        self.refused.append(worker)
        if worker in self.workers:
            self.workers.remove(worker)
        refused = sum(map(has_machine, self.refused))
        if not self.workers and places_for(self.resources) <= refused:
            raise error
        log.warning("a machine is left out: %s", first_line(error))

    def count_failure(self, worker: RemoteWorker, error: Exception) -> None:
        """Count a failure to start; InputError after some, where no worker has started."""
        log.warning("a worker on %s has not started: %s", worker.host, first_line(error))
        self.pauses.fail(worker.machine)
        self.failures += 1
        loading = [other for other in self.starting.values() if other.facts]
        if self.failures >= STARTS and not loading and not any(w.slots for w in self.workers):
            raise InputError(
                f"{count(self.failures, 'start')} of workers failed, the last one on "
                f"{worker.host} ({first_line(error)}): install cola-jax on all machines, give "
                "workers more memory, and see the logs of Ray."
            ) from error

    def sent(self, place: ModelPlace) -> Files:
        """Put the files of a checkpoint into the object store, once."""
        if place.digest not in self.files:
            assert place.directory is not None
            self.files = {place.digest: put_files(Path(place.directory))}
        return self.files[place.digest]


def ended(references: list[ObjectRef]) -> list[ObjectRef]:
    """Wait up to a time for at least one call to end; return those that have ended."""
    if not references:  # while no worker can start
        time.sleep(WAIT)
        return []
    done, _ = ray.wait(references, timeout=WAIT)
    return ray.wait(references, num_returns=len(references), timeout=0)[0] if done else []


def still_running(tickets: list[Ticket], running: Mapping[ObjectRef, Ticket]) -> list[Ticket]:
    """Return the tickets whose calls have not ended: the driver may not know it yet."""
    if not tickets:
        return []
    done = ray.wait([*running], num_returns=len(running), timeout=0)[0]
    ready = {running[reference] for reference in done}
    return [ticket for ticket in tickets if ticket not in ready]


def has_machine(worker: RemoteWorker) -> bool:
    """Return whether the machine of a worker remains, as far as it is known."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return worker.facts is None or worker.facts.node in alive


def cause_of(error: RayTaskError) -> Exception:
    """Return what a call has raised, with the traceback of its process."""
    cause = error.cause
    if not isinstance(cause, Exception):
        return error
    cause.__cause__ = error
    return cause
