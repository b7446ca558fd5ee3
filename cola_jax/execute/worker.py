"""Workers: a copy of the model each, and threads that map a function over batches."""

import contextlib
import copy
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cola_jax.dtypes import FLOATS, dtype_name
from cola_jax.errors import InputError, check_whole
from cola_jax.execute import placement
from cola_jax.execute.attention import Mode
from cola_jax.execute.buffers import Buffers
from cola_jax.execute.forward import Sources, States, forward_few, forward_tiles
from cola_jax.execute.inputs import count_paths
from cola_jax.execute.kv_cache import NO_CACHE, Kept
from cola_jax.execute.layout import Layout
from cola_jax.execute.memory import Memory, caches_of, default_budget
from cola_jax.execute.placement import layers_of
from cola_jax.execute.plan import FRESH, Batches, Tiles, Workload, pad_rows
from cola_jax.execute.recurrence import choose_kind
from cola_jax.kernels.attention import PromptAttention, stored_as
from cola_jax.kernels.choice import (
    choose_decode_attention,
    choose_experts,
    choose_prompt_attention,
)
from cola_jax.kernels.decode import DecodeAttention
from cola_jax.metrics import Clock, Metrics
from cola_jax.model import View
from cola_jax.params import Model
from cola_jax.progress import metrics_bar
from cola_jax.prompts import Prompts
from cola_jax.steps import StepForm, layer_of

Batch = TypeVar("Batch")
Result = TypeVar("Result")
CALL = 128  # tiles that are copied to the devices together
# Tiles of one call, elsewhere one: a call takes a GPU's host about as long as the device a small
# tile. A CPU hardly notices, and would compile longer.
TOGETHER = {"gpu": 4}


class Stopped(Exception):
    """Ends a batch whose results are no longer needed."""


class Call(NamedTuple):
    """Tiles that one program runs, of layers of a kind and steps of a form."""

    layers: list[int]  # of each tile
    form: StepForm
    shape: int
    first: int  # tile


class Launches(NamedTuple):
    """Tiles on the devices, and the calls that run them."""

    layout: Layout
    tables: list[jax.Array]  # [CALL, F, R]
    calls: list[list[Call]]  # of each table


class Worker:
    """A copy of the model on its devices, with the buffers and prefixes of its batches."""

    def __init__(
        self,
        model: Model,
        devices: np.ndarray,
        memory: Memory,
        dtype: Any,
        kernels: Sequence[PromptAttention],
        decode_kernels: Sequence[DecodeAttention],
        expert_kernels: Sequence[Callable[..., jax.Array] | None],
        metrics: Metrics,
        stopped: threading.Event,
    ):
        """Take the part of a model that lies on the devices of a place of the `data` axis.

        There are two kernels of attention for each kind of layer, and one of experts.
        """
        self.device = devices.flat[0]
        self.devices = devices
        self.sharding = placement.sharding_on(devices)
        model = jax.tree.map(lambda leaf: placement.local_shards(leaf, devices), model)
        platform = self.device.platform
        split = devices.size
        if platform == "tpu":
            model = model.replace(layers=tuple(map(placement.in_tpu_order, model.layers)))
        pairs = zip(model.layers, expert_kernels, strict=True)
        stacks = tuple(stack.replace(experts_kernel=kernel) for stack, kernel in pairs)
        model = model.replace(layers=stacks)
        self.model = model
        self.config = model.config
        self.kinds = [choose_kind(kind) for kind in model.config.kinds]
        self.dtype = dtype
        self.cache_of = caches_of(model.config)
        # several devices of a CPU are there to test what a TPU runs, which slices the stack
        whole = platform == "tpu" or (platform == "cpu" and split > 1)
        self.layers = None if whole else list(layers_of(model))
        self.together = TOGETHER.get(platform, 1)
        self.kind_of = np.array([self.config.kind_of(i) for i in range(self.config.num_layers)])
        self.memory = memory
        self.metrics = metrics
        self.kernels = list(kernels)
        self.decode_kernels = list(decode_kernels)
        if split > 1:
            mesh = placement.worker_mesh(devices)
            self.kernels = [kernel.on(mesh) for kernel in kernels]
            self.decode_kernels = [kernel.on(mesh) for kernel in decode_kernels]
        self.index = self.put([np.int32(i) for i in range(CALL + 1)])
        self.lock = threading.Lock()
        self.stopped = stopped
        self.clock = Clock(on_cpu=platform == "cpu")
        metrics.clocks.append(self.clock)
        self.buffers = Buffers(memory.budget)
        self.sharing = threading.Lock()
        self.prefixes: list[Any] = []  # `SharedPrefix` of batches that run, or may follow
        self.opened: Any = None  # what stays open between two calls of a work

    def count_in(self, metrics: Metrics) -> None:
        """Count evaluations and time in these metrics from now on."""
        if metrics is not self.metrics:
            self.metrics, self.clock = metrics, Clock(on_cpu=self.device.platform == "cpu")
            metrics.clocks.append(self.clock)

    def close(self) -> None:
        """Give back the buffers of what stays open between calls, for another work."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def put(self, tree: Any) -> Any:
        """Copy arrays to every device of the worker."""
        return jax.device_put(tree, self.sharding)

    def dispatch(self, program: Callable[[], Result]) -> Result:
        """Call a function that dispatches device programs and returns their arrays.

        One thread dispatches at a time, so that the devices run the programs of a batch after those
        of another; threads wait for results outside.
        """
        if self.stopped.is_set():
            raise Stopped
        with self.lock, self.clock.dispatching():
            return program()

    def wait(self, arrays: Any) -> Any:
        """Wait for arrays of dispatched programs; return them as numpy."""
        with self.clock.waiting():
            return jax.device_get(arrays)

    def load(self, tiles: Tiles, layout: Layout) -> Launches:
        """Copy tiles to the devices."""
        parts = list(tiles.parts(CALL))
        tables = [self.put(pad_rows(part.table, CALL)) for part in parts]
        return Launches(layout, tables, [list(self.calls_of(part)) for part in parts])

    def calls_of(self, tiles: Tiles) -> Iterator[Call]:
        """Yield the calls that run tiles."""
        layers = layer_of(tiles.step).tolist()
        forms = [StepForm.of(step) for step in tiles.step.tolist()]
        distinct = list(dict.fromkeys(forms))
        numbers = np.array([distinct.index(form) for form in forms], int)
        for shape, first, end in tiles.runs(self.kind_of[layers] * len(distinct) + numbers):
            while first < end:
                count = end - first
                if self.layers is not None:  # few programs: of this number of tiles, or of one
                    count = self.together if count >= self.together else 1
                yield Call(layers[first : first + count], forms[first], shape, first)
                first += count

    def in_float32(self) -> "Worker":
        """Return a worker of the same weights, devices and spare buffers that runs in float32.

        The metrics do not count its evaluations.
        """
        worker = copy.copy(self)
        worker.dtype = jnp.dtype(jnp.float32)
        worker.kernels = [
            PromptAttention(softcap=kind.attention_softcap) for kind in self.config.kinds
        ]
        worker.memory = self.memory._replace(itemsize=worker.dtype.itemsize)
        worker.metrics = Metrics()
        worker.prefixes = []
        return worker

    def run(
        self,
        launches: Launches,
        states: States,
        modes: Sequence[Mode],
        caches: Sequence[Kept] = (),
        source: Sources | None = None,
    ) -> tuple[States, tuple[Kept, ...]]:
        """Dispatch tiles; return the states and the caches that they have written.

        There is a mode for each kind of layer; without caches, nothing is kept.
        """
        kept = list(caches or [NO_CACHE] * len(modes))
        for table, calls in zip(launches.tables, launches.calls, strict=True):
            for layers, form, shape, first in calls:
                kind = int(self.kind_of[layers[0]])
                facts = (self.config, kind, form, launches.layout.shapes[shape])
                rest = (modes[kind], source)
                number = self.cache_of[kind]
                if self.layers is None:
                    stack = self.model.layers[kind]
                    ends = (self.index[first], self.index[first + len(layers)])
                    states, kept[number] = forward_tiles(
                        *facts, stack, table, *ends, states, kept[number], *rest
                    )
                else:
                    few = tuple(self.layers[layer] for layer in layers)
                    states, kept[number] = forward_few(
                        *facts, few, table, self.index[first], states, kept[number], *rest
                    )
        return states, tuple(kept)

    def modes_over_prompts(
        self,
        views: View,
        prefix: Sequence[Kept] | None,
        read: jax.Array | None,
        pages: jax.Array | None = None,
    ) -> list[Mode]:
        """Return the mode of each kind of layer over prompts, or prompts that continue a prefix.

        `pages` are those of the blocks to which keys and values are written.
        """
        caches = [None if prefix is None else prefix[number] for number in self.cache_of]
        each = zip(self.kinds, caches, self.kernels, strict=True)
        return [
            kind.over_prompts(views, cache, read, pages, kernel) for kind, cache, kernel in each
        ]

    def modes_to_cache(
        self,
        views: View,
        prompts: Sequence[Kept],
        lengths: tuple[jax.Array, jax.Array],
        pages: tuple[jax.Array, jax.Array],
        reach: tuple[int, int],
    ) -> list[Mode]:
        """Return the mode of each kind of layer for tokens that continue prompts."""
        caches = [prompts[number] for number in self.cache_of]
        each = zip(self.kinds, caches, self.decode_kernels, strict=True)
        return [
            kind.to_cache(views, cache, *lengths, pages, reach=reach, kernel=kernel)
            for kind, cache, kernel in each
        ]

    def take_buffer(self, shape: tuple[int, ...], dtype: Any, *, split: int) -> jax.Array:
        """Take a buffer of any content, a spare one where the shape is the same.

        It is split over the devices along the axis `split`, where their number divides it, and
        read and written by `get` and `put`.
        """
        dtype = stored_as(dtype, self.device.platform)
        even = shape[split] % self.devices.size == 0
        placed = placement.sharding_on(self.devices, split) if even else self.sharding

        def make() -> jax.Array:
            return jnp.zeros(shape, dtype, device=placed)

        with self.lock:
            return self.buffers.take(shape, dtype, make)

    def rows_of_spare(self, shape: tuple[int, ...], dtype: Any) -> int:
        """Return the rows of a spare buffer with at least those of a shape, or these."""
        with self.lock:
            return self.buffers.rows_of_spare(shape, stored_as(dtype, self.device.platform))

    def take_pages(self, counts: Sequence[int], tokens: int) -> Any:
        """Take the buffers of each cache: pages of so many tokens, and one for padding."""

        def take(number: int, count: int) -> Any:
            kind = self.cache_of.index(number)
            page = self.kinds[kind].page(self.config.kinds[kind], tokens, self.dtype)
            return jax.tree.map(
                lambda x: self.take_buffer((count + 1, *x.shape), x.dtype, split=1), page
            )

        return tuple(take(*each) for each in enumerate(counts))

    def give_back(self, *buffers: jax.Array) -> None:
        """Keep buffers for the next batch of the same shapes."""
        with self.lock:
            self.buffers.give_back(buffers)

    def drop_buffers(self) -> None:
        """Free spare buffers and prefixes: a program that failed leaves those that it had unusable.

        Batches that run keep theirs.
        """
        with self.lock:
            self.buffers.spare.clear()
        with self.sharing:
            self.prefixes = []


class WorkerOptions(TypedDict, total=False):
    """Keywords of every function that runs paths.

    dtype: that of the activations; the weights' own by default.
    memory_budget: bytes for states, KV caches and other buffers on each device, beside the weights;
      by default half of the memory beside the weights, of which a run takes no more than it can
      use.
    tile_tokens: tokens that run a layer together; by default chosen for the backend.
    metrics: counts evaluations and their cost.
    progress: shows a bar; by default in a notebook or on a terminal.
    """

    dtype: DTypeLike | None
    memory_budget: int | None
    tile_tokens: int | None
    metrics: Metrics | None
    progress: bool | None


def make_workers(
    model: Model,
    *,
    sharing: int = 1,
    dtype: DTypeLike | None = None,
    memory_budget: int | None = None,
    tile_tokens: int | None = None,
    metrics: Metrics | None = None,
) -> "list[Worker]":
    """Make the workers of a model, one for each place of the `data` axis of its mesh.

    `sharing` batches share a worker and its budget: with two, the devices run the programs of one
    batch while the host plans and scores the other. The other arguments are those of
    `WorkerOptions`.
    """
    devices = placement.model_devices(model)
    dtype = jnp.dtype(dtype_name(dtype, FLOATS) or model.embedding.dtype)
    memory = memory_of(
        model, sharing=sharing, dtype=dtype, memory_budget=memory_budget, tile_tokens=tile_tokens
    )
    # a recurrent layer uses none
    kinds = model.config.kinds
    attending = [kinds[0] if kind.convolution else kind for kind in kinds]
    each = [(devices.flat[0], config, dtype, devices.shape[1]) for config in attending]
    with_experts = [(devices.flat[0], config, dtype, devices.shape[1]) for config in kinds]
    kernels = (
        [choose_prompt_attention(*facts) for facts in each],
        [choose_decode_attention(*facts) for facts in each],
        [choose_experts(*facts[:2], model.config.width, *facts[2:]) for facts in with_experts],
    )
    shared = metrics or Metrics(), threading.Event()
    return [Worker(model, row, memory, dtype, *kernels, *shared) for row in devices]


def memory_of(
    model: Model,
    *,
    sharing: int = 1,
    dtype: DTypeLike | None = None,
    memory_budget: int | None = None,
    tile_tokens: int | None = None,
) -> Memory:
    """Return the memory of the workers of a model; the arguments are those of `make_workers`."""
    devices = placement.model_devices(model)
    dtype = jnp.dtype(dtype_name(dtype, FLOATS) or model.embedding.dtype)
    if tile_tokens is not None:
        check_whole("tile_tokens", tile_tokens)
    if memory_budget is not None:
        check_whole("memory_budget", memory_budget)
    else:
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
        memory_budget = default_budget(devices.flat[0], weights // devices.shape[1])
    return Memory(
        memory_budget,
        sharing=sharing,
        itemsize=dtype.itemsize,
        backend=devices.flat[0].platform,
        tile_tokens=tile_tokens,
    )


def map_questions(
    workers: "Sequence[Worker]",
    function: "Callable[[Worker, np.ndarray, Workload], Result]",
    prompts: Prompts,
    paths: np.ndarray,
    workload: Workload,
    progress: bool | None = None,
    *,
    whole: bool = False,
) -> Iterator[tuple[np.ndarray, Result]]:
    """Map a function over batches of questions with paths [B, C, P], under a bar.

    It takes a worker, the indices of the questions, and their workload, whose prefix and `same` are
    set here. With `whole`, a batch has all questions of a worker that begin alike. Yields indices
    with results, as they end. InputError where a worker would have no question.
    """
    if len(paths) < len(workers):
        raise InputError(
            f"there are {len(paths)} questions for {len(workers)} places on the 'data' axis of the "
            "mesh, and each runs questions of its own: use fewer devices."
        )
    first, *_ = workers
    metrics = workers[0].metrics
    same = bool((paths == paths[:1]).all())
    shared = Batches.of(prompts, 1 / len(paths) if same else FRESH)
    every = range(len(paths))
    if whole:
        batches = shared.deal(every, len(workers))
    else:
        batches = shared.cut(every, len(workers), first.memory.limits.questions)

    def run(worker: Worker, questions: np.ndarray) -> Result:
        prefix = shared.prefixes[questions[0]]
        return function(worker, questions, workload._replace(same=same, prefix=prefix))

    metrics.add(total=count_paths(paths))
    with metrics_bar(metrics, progress):
        yield from on_threads(workers, run, batches)
        metrics.total = metrics.earlier + metrics.evaluations


def on_threads(
    workers: "Sequence[Worker]",
    function: "Callable[[Worker, Batch], Result]",
    batches: Iterable[Batch],
) -> Iterator[tuple[Batch, Result]]:
    """Yield each batch with the function's result, in the order they end; a thread a worker.

    The first error ends all threads and is raised here.
    """
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(batch: Batch) -> tuple[Batch, Result]:
        worker = idle.get()
        try:
            return batch, function(worker, batch)
        finally:
            idle.put(worker)

    with stopping(workers), ThreadPoolExecutor(len(workers), thread_name_prefix="worker") as pool:
        try:
            count = 0  # and no list of futures, which would keep the results
            for batch in batches:
                pool.submit(run, batch).add_done_callback(results.put)
                count += 1
            for _ in range(count):
                yield results.get().result()
        finally:
            workers[0].stopped.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def stopping(workers: "Sequence[Worker]") -> Iterator[None]:
    """Let threads dispatch again after the body, which may have stopped them."""
    try:
        yield
    finally:
        workers[0].stopped.clear()
