"""`LocalEngine`: does work on the devices of this process."""

import contextlib
import logging
import queue
from collections.abc import Generator, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax.config import ModelConfig
from cola_jax.engine.devices import Devices
from cola_jax.engine.dispatch import Dispatch, Ticket
from cola_jax.engine.engine import Capacity, Machine, QuestionShare
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.work import Batch, Work
from cola_jax.errors import shorten
from cola_jax.execute.memory import Memory, default_budget, default_limits
from cola_jax.execute.placement import model_devices
from cola_jax.execute.worker import Worker, make_workers, memory_of, stopping
from cola_jax.metrics import Metrics
from cola_jax.params import float_dtype, weight_bytes

log = logging.getLogger(__name__)
ALL = QuestionShare()
MANY = 1 << 30  # questions, for which all devices are used
CHECK = 5.0  # seconds between two looks at batches that take long


class LocalEngine:
    """The devices of this process, each set of them with a copy of the model and its threads."""

    def __init__(
        self,
        devices: Devices | None = None,
        *,
        batch_size: int | None = None,
        dtype: DTypeLike | None = None,
        share: QuestionShare = ALL,
    ):
        """Take the devices, the most questions of a batch, and the dtype of activations.

        By default a batch has as many as suit the devices, and activations are of the weights'
        dtype. `share` are the questions of a run that this process has.
        """
        self.share = share
        self.devices = devices or Devices()
        self.batch_size = batch_size
        self.dtype = dtype
        self.made: tuple[ModelHandle, int, list[Worker]] | None = None  # and the batches sharing

    @property
    def backend(self) -> str:
        """The backend of JAX."""
        self.devices.check_backend()
        return jax.default_backend()

    def record(self, model: ModelHandle) -> dict[str, Any]:
        """Return the facts for the record of a start: its devices."""
        share = self.share
        if model.given is not None:
            devices = {"devices": model_devices(model.given).size}
        else:
            mesh = self.mesh_of(model)
            devices = {"devices": 1 if mesh is None else mesh.size}
        if share.count == 1:
            return devices
        return devices | {"host": share.index, "hosts": share.count, "together": share.start}

    def capacity(self, model: ModelHandle, questions: int) -> Capacity:
        """Return the capacity for a model and a number of questions, before its weights load."""
        model.fewest = min(questions, model.fewest or questions)
        limits = default_limits()
        if model.given is not None:
            copies = model_devices(model.given).shape[0]
            memory = memory_of(model.given, sharing=limits.threads, **self.options())
        else:
            mesh = self.mesh_of(model)
            memory = self.memory(model.config, model.dtype)
            copies = 1 if mesh is None else mesh.shape["data"]
        parts = copies * limits.threads
        size = self.batch_size
        return Capacity(memory, parts, size or limits.questions, size or limits.decode_questions)

    def mesh_of(self, model: ModelHandle) -> Mesh | None:
        """Return the mesh of a model that is loaded here, None for a single device."""
        return self.devices.mesh(model.fewest or MANY)

    def memory(self, config: ModelConfig, dtype: str) -> Memory:
        """Return the memory of workers on each device, known before the weights load."""
        budget = self.devices.budget
        wide = float_dtype(dtype)
        if budget is None:
            weights = weight_bytes(config, dtype, wide)
            budget = default_budget(jax.local_devices()[0], weights // self.devices.tensor)
        return Memory(
            budget,
            sharing=default_limits().threads,
            itemsize=wide.itemsize,
            backend=jax.default_backend(),
            tile_tokens=self.devices.tile_tokens,
        )

    def options(self) -> dict[str, Any]:
        """Return the arguments of `make_workers` that the devices decide."""
        return {
            "dtype": self.dtype,
            "memory_budget": self.devices.budget,
            "tile_tokens": self.devices.tile_tokens,
        }

    def workers(self, handle: ModelHandle, sharing: int | None, metrics: Metrics) -> list[Worker]:
        """Return the workers of a model, which stay for the next work with it.

        `sharing` batches share the memory of each; by the backend where None, and then none of an
        earlier work stay open.
        """
        if self.made is not None and sharing is None:
            for worker in self.made[2]:
                worker.close()
        sharing = sharing or default_limits().threads
        if self.made is None or self.made[0] is not handle or self.made[1] != sharing:
            self.free()  # frees the buffers before more are allocated
            model = handle.given
            options = self.options()
            if model is None:
                model = handle.load(self.mesh_of(handle), metrics)
                options["memory_budget"] = self.memory(handle.config, handle.dtype).budget
            made = make_workers(model, sharing=sharing, metrics=metrics, **options)
            self.made = handle, sharing, made
        workers = self.made[2]
        for worker in workers:
            worker.count_in(metrics)
        return workers

    def free(self) -> None:
        """Free the buffers of the workers."""
        for worker in [] if self.made is None else self.made[2]:
            worker.close()
        self.made = None

    def map(
        self, work: Work, batches: Iterable[Batch], metrics: Metrics | None = None
    ) -> Generator[tuple[Batch, Any, Machine], None, None]:
        """Do the work on batches; yields and raises as `Engine.map`.

        A batch that takes long is logged, and not run again: threads cannot be stopped.
        """
        dispatch = Dispatch(batches, divisible=work.divisible)
        if not dispatch.waiting:  # the weights are not needed
            return
        workers = self.workers(work.model, work.sharing, metrics or Metrics())
        threads = workers[0].memory.sharing
        by_key: dict[Hashable, Worker] = dict(enumerate(workers))
        for key, worker in by_key.items():
            dispatch.join(key, str(worker.device), threads)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def run(ticket: Ticket) -> None:
            def keep(part: Any) -> None:
                events.put(Event(ticket, part, ended=False))

            worker = by_key[ticket.worker]
            try:
                events.put(Event(ticket, work(worker, ticket.batch, keep)))
            except BaseException as error:  # also the panic of a library in Rust
                worker.drop_buffers()
                events.put(Event(ticket, error, failed=True))

        with contextlib.ExitStack() as stack:
            for scorer in work.scorers:
                stack.enter_context(scorer)
            stack.enter_context(stopping(workers))
            pool = ThreadPoolExecutor(threads * len(workers), "worker")
            try:
                while not dispatch.finished:
                    while (ticket := dispatch.hand_out()) is not None:
                        pool.submit(run, ticket)
                    event = None  # frees its result, which may be large
                    with contextlib.suppress(queue.Empty):
                        event = events.get(timeout=CHECK)
                    report_late(dispatch)
                    if event is None:
                        continue
                    if event.failed:
                        if not isinstance(event.result, Exception):
                            raise event.result
                        for aside, failed in dispatch.fail(event.ticket, event.result):
                            yield aside, failed, None
                    elif not event.ended or dispatch.succeed(event.ticket):
                        yield event.ticket.batch, event.result, None
            finally:
                workers[0].stopped.set()
                pool.shutdown(cancel_futures=True)


class Event(NamedTuple):
    """A result of a batch, a part of one, or the error that ended it."""

    ticket: Ticket
    result: Any
    ended: bool = True
    failed: bool = False


def report_late(dispatch: Dispatch) -> None:
    """Say which batches take much longer than others, once for each."""
    for ticket in dispatch.overdue():
        log.warning(
            "a batch of questions (%s) takes much longer than others: if it never ends, stop the "
            "command and start it again",
            shorten([question.id for question in ticket.batch.questions]),
        )
