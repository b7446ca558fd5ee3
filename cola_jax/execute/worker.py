"""Workers: one copy of the model each, and the threads that map a function over batches."""

import copy
import dataclasses
import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cola_jax.errors import InputError
from cola_jax.execute import placement
from cola_jax.execute.attention import KINDS, Kept, Mode, NoCache
from cola_jax.execute.forward import Sources, States, forward_tile, forward_tiles
from cola_jax.execute.memory import Memory, default_budget
from cola_jax.execute.metrics import Clock, Metrics
from cola_jax.execute.placement import layers_of
from cola_jax.execute.plan import Layout, Tiles, pad_rows
from cola_jax.kernels.attention import DecodeAttention, PromptAttention
from cola_jax.kernels.buffers import stored_as
from cola_jax.kernels.choice import choose_decode_attention, choose_prompt_attention
from cola_jax.params import Model
from cola_jax.progress import metrics_bar

Batch = TypeVar("Batch")
Result = TypeVar("Result")
END = object()  # after the last batch
CALL = 128  # tiles that are copied to the devices together


class Stopped(Exception):
    """Ends a thread whose results are no longer needed."""


class Pending(NamedTuple):
    """Arrays of programs that were dispatched."""

    arrays: Any
    clock: Clock

    def get(self) -> Any:
        """Wait for the arrays; return them as numpy."""
        with self.clock.waiting():
            return jax.device_get(self.arrays)


class Launches(NamedTuple):
    """Tiles on the devices, and the calls that run them."""

    layout: Layout
    tables: list[jax.Array]  # [CALL, F, R]
    calls: list[list[tuple[int, int, int, int]]]  # of each table: layer, shape, first tile, end


class Worker:
    """One copy of the model on its devices, with what runs there."""

    def __init__(
        self,
        model: Model,
        devices: np.ndarray,
        memory: Memory,
        dtype: Any,
        kernel: PromptAttention,
        decode_kernel: DecodeAttention,
        metrics: Metrics,
        stopped: threading.Event,
    ):
        """Takes the part of a model that lies on the devices of one place of the `data` axis."""
        self.device, self.devices = devices.flat[0], devices
        self.sharding = placement.held_whole(devices)
        model = jax.tree.map(lambda leaf: placement.local_shards(leaf, devices), model)
        platform, split = self.device.platform, devices.size
        if platform == "tpu":
            model = model.replace(layers=placement.in_tpu_order(model.layers))
        self.model, self.config = model, model.config
        self.kind = KINDS[type(model.layers)]
        # several devices of a CPU are there to test what a TPU runs, which slices the stack
        whole = platform == "tpu" or (platform == "cpu" and split > 1)
        self.layers = None if whole else list(layers_of(model.layers))
        self.memory, self.dtype, self.metrics = memory, dtype, metrics
        self.kernel, self.decode_kernel = kernel, decode_kernel
        if split > 1:
            mesh = placement.worker_mesh(devices)
            self.kernel, self.decode_kernel = kernel.on(mesh), decode_kernel.on(mesh)
        self.index = self.put([np.int32(i) for i in range(CALL + 1)])
        self.lock, self.stopped = threading.Lock(), stopped
        self.clock = Clock(on_cpu=platform == "cpu")
        metrics.clocks.append(self.clock)
        self.spare: dict[tuple[tuple[int, ...], str], list[jax.Array]] = {}
        self.sharing = threading.Lock()
        self.shared: list[Shared] = []

    def put(self, tree: Any) -> Any:
        """Copies arrays to every device of the worker."""
        return jax.device_put(tree, self.sharding)

    def dispatch(self, program: Callable[[], Any]) -> Pending:
        """Calls a function that dispatches device programs and returns their arrays.

        One thread dispatches at a time, so that the devices run one batch's programs after the
        other's; the results are waited for outside.
        """
        if self.stopped.is_set():
            raise Stopped
        with self.lock, self.clock.dispatching():
            return Pending(program(), self.clock)

    def load(self, tiles: Tiles, layout: Layout) -> Launches:
        """Copy tiles to the devices."""
        parts = list(tiles.parts(CALL))
        tables = [self.put(pad_rows(part.table, CALL)) for part in parts]
        calls = [list(part.runs(same_layer=self.layers is not None)) for part in parts]
        return Launches(layout, tables, calls)

    def in_float32(self) -> "Worker":
        """Returns a worker of the same weights, devices and spare buffers that runs in float32.

        The metrics do not count its evaluations.
        """
        worker = copy.copy(self)
        worker.dtype, worker.kernel = jnp.dtype(jnp.float32), PromptAttention()  # in 32 bits
        worker.memory = self.memory._replace(itemsize=worker.dtype.itemsize)
        worker.metrics, worker.shared = Metrics(), []
        return worker

    def run(
        self,
        launches: Launches,
        states: States,
        mode: Mode,
        cache: Kept = NoCache(),  # noqa: B008 - has no fields
        source: Sources | None = None,
    ) -> tuple[States, Kept]:
        """Dispatch tiles; returns the states and the cache that they have written."""
        config = self.config
        for table, calls in zip(launches.tables, launches.calls, strict=True):
            for layer, number, first, end in calls:
                shape = launches.layout.shapes[number]
                if self.layers is None:
                    ends = self.index[first], self.index[end]
                    states, cache = forward_tiles(
                        config, shape, self.model.layers, table, *ends, states, cache, mode, source
                    )
                    continue
                weights = self.layers[layer]
                for i in range(first, end):
                    states, cache = forward_tile(
                        config, shape, weights, table, self.index[i], states, cache, mode, source
                    )
        return states, cache

    def buffer(self, shape: tuple[int, ...], dtype: Any, *, split: int) -> jax.Array:
        """Takes a buffer of any content, one that was given back where the shape is the same.

        It is split over the devices along the axis `split`, where their number divides it, and
        read and written by `buffers.get` and `buffers.put`.
        """
        dtype = stored_as(dtype, self.device.platform)
        with self.lock:
            if same := self.spare.get((shape, str(dtype))):
                return same.pop()
            self.spare.clear()  # frees what has other shapes before more is allocated
        even = shape[split] % self.devices.size == 0
        placed = placement.split_along(self.devices, split) if even else self.sharding
        return jnp.zeros(shape, dtype, device=placed)

    def blocks(self, count: int, tokens: int) -> Any:
        """Take blocks of what layers keep of so many tokens, and one for padding."""
        block = self.kind.block(self.config, tokens, self.dtype)
        return jax.tree.map(lambda x: self.buffer((count + 1, *x.shape), x.dtype, split=1), block)

    def give_back(self, *buffers: jax.Array) -> None:
        """Keeps buffers for the next batch of the same shapes."""
        with self.lock:
            for buffer in buffers:
                self.spare.setdefault((buffer.shape, str(buffer.dtype)), []).append(buffer)

    def share(self, key: Hashable, make: Callable[[], Any]) -> "Shared":
        """Returns what all batches use that ask for the same key; the first of them makes it.

        It stays for the next batch that asks for the key, until one asks for another.
        """
        with self.sharing:
            self.drop(key)
            same = [one for one in self.shared if one.key == key]
            if not same:
                same = [Shared(key, make())]
                self.shared += same
            same[0].users += 1
            return same[0]

    def share_nothing(self) -> None:
        """Drops what no batch uses now: the next one needs the memory."""
        with self.sharing:
            self.drop(None)

    def drop(self, key: Hashable) -> None:
        """Drops what no batch uses, of other keys."""
        self.shared = [one for one in self.shared if one.users or one.key == key]

    def leave(self, shared: "Shared") -> None:
        """Says that a batch uses it no more."""
        with self.sharing:
            shared.users -= 1


@dataclasses.dataclass(eq=False)
class Shared:
    """What several batches of a worker use at the same time."""

    key: Hashable
    value: Any
    users: int = 0


class WorkerOptions(TypedDict, total=False):
    """How a model is executed; keywords of every function that runs paths.

    dtype: that of the activations; the weights' own by default.
    memory_budget: bytes for states, KV caches and other buffers on each device, beside the weights;
      by default half of what the weights leave of an accelerator's or a machine's memory, of which
      a run takes no more than it can use.
    tile_tokens: tokens that run a layer together; by default chosen for the backend.
    metrics: counts evaluations and what they cost.
    progress: shows a bar; by default in a notebook or on a terminal.
    """

    dtype: DTypeLike | None
    memory_budget: int | None
    tile_tokens: int | None
    metrics: Metrics | None
    progress: bool | None


class Workers:
    """The workers of a model, one for each place of the `data` axis of its mesh."""

    def __init__(self, model: Model, *, threads: int = 1, **options: Unpack[WorkerOptions]):
        """Makes the workers; `threads` batches share a worker and its budget.

        With two, the devices run the programs of one batch while the host plans and scores the
        other.
        """
        if unknown := sorted(options.keys() - WorkerOptions.__annotations__.keys()):
            raise TypeError(
                f"unknown keyword {unknown[0]!r}: known are "
                f"{', '.join(WorkerOptions.__annotations__)}."
            )
        devices = placement.model_devices(model)
        self.config, self.threads = model.config, threads
        budget, dtype = options.get("memory_budget"), options.get("dtype")
        dtype = jnp.dtype(dtype or model.embedding.dtype)
        if budget is None:
            weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
            budget = default_budget(devices.flat[0], weights // devices.shape[1])
        self.memory = Memory(
            budget,
            sharing=threads,
            itemsize=dtype.itemsize,
            backend=devices.flat[0].platform,
            tile_tokens=options.get("tile_tokens"),
        )
        self.stopped, self.metrics = threading.Event(), options.get("metrics") or Metrics()
        self.progress = options.get("progress")
        on = devices.flat[0], model.config, dtype, devices.shape[1]
        kernels = choose_prompt_attention(*on), choose_decode_attention(*on)
        self.workers = [
            Worker(model, row, self.memory, dtype, *kernels, self.metrics, self.stopped)
            for row in devices
        ]

    @property
    def batches_at_once(self) -> int:
        """How many batches run at the same time."""
        return self.threads * len(self.workers)

    def check_count(self, questions: int) -> None:
        """Raises ValueError where a worker would have no question."""
        if questions < len(self.workers):
            raise InputError(
                f"there are {questions} questions for {len(self.workers)} places on the 'data' "
                "axis of the mesh, and each runs questions of its own: use fewer devices."
            )

    def map(
        self,
        function: Callable[[Worker, Batch], Result],
        batches: Iterable[Batch],
        evaluations: int = 0,
    ) -> Iterator[tuple[Batch, Result]]:
        """Yields each batch with what the function returns for it, in the order they finish.

        `evaluations` are what to expect of all batches, where that is not in the metrics yet. The
        first error ends all threads and is raised here.
        """
        self.metrics.add(total=evaluations)
        waiting: Iterator[Any] = iter(batches)
        lock, results = threading.Lock(), queue.SimpleQueue()

        def run(worker: Worker) -> None:
            try:
                while True:
                    with lock:
                        batch: Any = next(waiting, END)
                    if batch is END or self.stopped.is_set():
                        break
                    results.put((batch, function(worker, batch)))
                results.put(END)
            except BaseException as error:
                results.put(error)

        threads = [
            threading.Thread(target=run, args=(worker,), name=f"worker {worker.device}")
            for _ in range(self.threads)
            for worker in self.workers
        ]
        with metrics_bar(self.metrics, self.progress):
            for thread in threads:
                thread.start()
            try:
                yield from until_ended(results, len(threads))
            finally:
                self.stopped.set()
                for thread in threads:
                    thread.join()
                self.stopped.clear()
                if evaluations:  # a search may have run out of paths
                    self.metrics.total = self.metrics.earlier + self.metrics.evaluations


def until_ended(results: "queue.SimpleQueue[Any]", threads: int) -> Iterator[Any]:
    """Yields results until every thread has ended; raises the first error."""
    while threads:
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        if result is END:
            threads -= 1
        else:
            yield result
