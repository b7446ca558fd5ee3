"""The fast executor: runs waves of paths of a batch of prompts, and reads the model's answers."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.execute.attention import Kept, Mode, NoCache
from cola_jax.execute.forward import embed_prompts, view_of
from cola_jax.execute.inputs import (
    bucket,
    cut,
    distinct_reads,
    no_readings,
    token_counts,
)
from cola_jax.execute.memory import Limits, Memory, capacity, choose_sizes, row_tokens, tile_rows
from cola_jax.execute.plan import Chunk, Layout, Tiles, TileShape
from cola_jax.execute.readouts import Queries, Readouts, ReadPositions, unembed_queries
from cola_jax.execute.trie import PrefixBlocks, Trie
from cola_jax.execute.worker import Pending, Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings


class Driver:
    """The prompts of a batch on its worker, and the slots of their hidden states."""

    def __init__(
        self, worker: Worker, prompts: Prompts, read: np.ndarray, slots: int, layout: Layout
    ):
        """Take prompts [B, T], the positions read by the last layer [B, Q], and S."""
        self.worker, self.layout, self.padding_slot = worker, layout, slots
        self.ids, self.read = worker.put((prompts.ids, read))
        self.views = view_of(worker.config, worker.put(prompts))
        # the slot after the last one takes what padding rows write
        shape = (slots + 1, prompts.ids.shape[1], worker.config.width)
        self.slots = worker.buffer(shape, worker.dtype, split=2)

    def run(
        self,
        chunk: Chunk,
        outputs: jax.Array,
        cache: Kept = NoCache(),  # noqa: B008 - has no fields
        prefix: Kept | None = None,
    ) -> tuple[jax.Array, Any]:
        """Dispatch a chunk; returns the outputs of the last layers, and the cache.

        `prefix` has what layers keep of what all prompts begin with, and these continue.
        """
        cache = self.fill(chunk.embedded, chunk.tiles, cache, prefix)
        last = self.worker.load(chunk.last, self.layout)
        mode = self.mode(prefix, self.read)
        return self.worker.run(last, outputs, mode, cache, source=self.slots)

    def fill(
        self,
        embedded: np.ndarray,
        tiles: Tiles,
        cache: Kept = NoCache(),  # noqa: B008 - has no fields
        prefix: Kept | None = None,
    ) -> Any:
        """Dispatch embeddings and tiles, which fill slots; returns the cache."""
        worker = self.worker
        if len(embedded):
            pairs = np.full((len(self.ids), 2), [0, self.padding_slot], np.int32)
            pairs[: len(embedded)] = embedded
            self.slots = embed_prompts(
                worker.model, self.slots, self.ids, worker.put(pairs), dtype=worker.dtype
            )
        launches = worker.load(tiles, self.layout)
        self.slots, cache = worker.run(launches, self.slots, self.mode(prefix), cache)
        return cache

    def mode(self, prefix: Kept | None, read: jax.Array | None = None) -> Mode:
        """Return how tiles run."""
        return self.worker.kind.over_prompts(self.views, prefix, read, self.worker.kernel)

    def close(self) -> None:
        """Give the slots back to the worker."""
        self.worker.give_back(self.slots)


def enlarge(values: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the first row at the end, up to `rows` rows."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])


class Workload(NamedTuple):
    """What a batch will be asked to run, for sizing its buffers."""

    wave: int  # paths of a question at a time
    positions: int  # layers of the longest path
    same: bool = False  # whether all questions run the same paths
    prefix: int = 0  # tokens with which all prompts begin, and that are run once for all


class Prefix(NamedTuple):
    """Keys and values of what all prompts of a batch begin with, and the block of each state."""

    blocks: PrefixBlocks
    cache: Kept


Dispatched = list[tuple[np.ndarray, Pending]]  # numbers of paths of a wave, and their readouts


def layout_of(prompts: Prompts, reads: Sequence[int], limits: Limits) -> Layout:
    """Choose the shapes of tiles for prompts that are read at so many positions each."""
    length = token_counts(prompts)
    tokens = np.array([row_tokens(limits, int(size)) for size in length])
    sizes, shape = np.unique(tokens, return_inverse=True)
    most = [int(np.max(np.array(reads)[tokens <= size], initial=1)) for size in sizes]
    shapes = tuple(
        TileShape(tile_rows(limits, size), size, row_tokens(limits, reads))
        for size, reads in zip(sizes.tolist(), most, strict=True)
    )
    return Layout(shapes, shape.astype(np.int32), length)


def slot_sizes(layout: Layout) -> tuple[int, int]:
    """Return T and Q of slots and outputs, which are as long as the longest tile's, rounded up."""
    return bucket(layout.tokens), bucket(max(shape.reads for shape in layout.shapes))


class PathEvaluator:
    """Runs waves of paths of prompts, each padded to the tokens of its tiles, and reads the model.

    States that a wave computed are kept for later waves as long as slots allow.
    """

    def __init__(
        self,
        worker: Worker,
        prompts: Prompts,
        workload: Workload,
        *,
        memory: Memory | None = None,
    ):
        """Take the prompts of a batch; `memory` of the buffers is the worker's when None."""
        memory = worker.memory if memory is None else memory
        limits, reads = memory.limits, distinct_reads(prompts)
        self.worker, self.reads = worker, np.asarray(prompts.read).shape[1]
        self.layout = layout_of(prompts, reads, limits)
        size, width = slot_sizes(self.layout)
        self.prompts = cut(prompts, size, self.reads)
        self.read_positions = ReadPositions(prompts, width)
        # with arrays as large, a smaller last batch compiles nothing
        count = capacity(len(prompts.ids))
        states = count * min(workload.wave, limits.states_kept) * worker.config.num_layers
        self.sizes = choose_sizes(worker.config, size, width, memory, states)
        self.trie = self.new_trie()
        inputs = jax.tree.map(lambda x: enlarge(x, count), self.prompts)
        read = enlarge(self.read_positions.read, count)
        self.driver = Driver(worker, inputs, read, self.sizes.slots, self.layout)
        # the output after the last one takes what padding rows write
        shape = (self.sizes.outputs + 1, width, worker.config.width)
        self.outputs = worker.buffer(shape, worker.dtype, split=2)

    def __call__(self, paths: np.ndarray) -> Readings:
        """Runs a wave [B, C, P]; returns Readings [B, C, Q] as numpy."""
        return self.collect(paths, self.dispatch(paths))

    def dispatch(self, paths: np.ndarray, prefix: "Prefix | None" = None) -> "Dispatched":
        """Dispatches a wave [B, C, P]; `prefix` is what all prompts continue, on the same paths."""
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        rows = np.concatenate([question[:, None], paths[question, candidate]], axis=1)
        begun = time.perf_counter()
        chunks, cost = self.trie.plan(rows, None if prefix is None else prefix.blocks)
        self.worker.metrics.add(cost=cost, planning=time.perf_counter() - begun)
        asked = [self.queries(question[chunk.paths]) for chunk in chunks]
        cache = None if prefix is None else prefix.cache
        pending = [
            self.worker.dispatch(
                lambda chunk=chunk, queries=queries: self.run(chunk, queries, cache)
            )
            for chunk, queries in zip(chunks, asked, strict=True)
        ]
        return [(chunk.paths, one) for chunk, one in zip(chunks, pending, strict=True)]

    def collect(self, paths: np.ndarray, dispatched: "Dispatched") -> Readings:
        """Waits for the wave that was dispatched; returns Readings [B, C, Q] as numpy."""
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        out = no_readings(paths, self.reads)
        for some, pending in dispatched:
            self.read_positions.collect(pending.get(), question[some], candidate[some], out)
            self.worker.metrics.add(evaluations=len(some))
        return out

    def run(self, chunk: Chunk, queries: Queries, prefix: Kept | None = None) -> list[Readouts]:
        """Dispatch a chunk; returns what is read in its outputs."""
        self.outputs, _ = self.driver.run(chunk, self.outputs, prefix=prefix)
        model = self.worker.model
        return [
            unembed_queries(model, self.outputs, *self.worker.put(part))
            for part in zip(*queries, strict=True)
        ]

    def queries(self, question: np.ndarray) -> Queries:
        """Say what to read in outputs that belong to these questions."""
        return self.read_positions.queries(question, self.sizes.unembedded)

    def new_trie(self) -> Trie:
        """Make a trie that holds no state yet."""
        return Trie(self.sizes.slots, self.layout, self.sizes.outputs)

    def close(self) -> None:
        """Gives the buffers back to the worker."""
        self.driver.close()
        self.worker.give_back(self.outputs)
