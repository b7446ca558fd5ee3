"""The fast executor: runs waves of paths of a batch of prompts, and reads the model's answers."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cola_jax.execute.driver import Driver, empty_chunk, enlarge
from cola_jax.execute.inputs import buckets, cut, no_readings
from cola_jax.execute.kv_cache import KVBlocks
from cola_jax.execute.memory import Memory, capacity, choose_sizes
from cola_jax.execute.plan import Chunk
from cola_jax.execute.readouts import Queries, Readouts, ReadPositions, unembed_queries
from cola_jax.execute.trie import PrefixBlocks, Trie
from cola_jax.execute.worker import Pending, Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings

# Paths of a question whose states find a slot, if memory allows. With 16, a search of 50
# evaluations a question runs 0.1 % more layers than with a slot for every state; with 4, another
# 1.2 % more, in 2.0 GB of a CPU's memory in place of 2.8 (SmolLM2, ARC-Easy).
STATES_KEPT = (16, 4)  # elsewhere, and on a CPU
LARGEST_BATCH = 4096  # questions: a trie numbers them in 16 bits


class Workload(NamedTuple):
    """What a batch will be asked to run, for sizing its buffers."""

    wave: int  # paths of a question at a time
    positions: int  # layers of the longest path
    same: bool = False  # whether all questions run the same paths
    # Whether what is computed for a question may not depend, to the last bit, on the others of its
    # batch: shapes are then those of a full batch.
    fixed: bool = False
    prefix: int = 0  # tokens with which all prompts begin, and that are run once for all


def cut_batches(
    keys: Sequence[tuple[int, ...]], parts: int, largest: int | None = None
) -> list[np.ndarray]:
    """Cuts indices into batches of equal keys, in the order of the keys.

    There are at least `parts` batches where there are as many indices, and none has more than
    `largest`, or than a trie can number.
    """
    size = min(-(-len(keys) // parts) or 1, largest or LARGEST_BATCH, LARGEST_BATCH)
    batches = []
    for key in sorted(set(keys), reverse=True):  # what needs most memory first
        same = np.flatnonzero([other == key for other in keys])
        batches += np.array_split(same, -(-len(same) // size))
    return batches


def take(prompts: Prompts, some: np.ndarray) -> Prompts:
    """Takes some questions of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[some], prompts)


class Prefix(NamedTuple):
    """Keys and values of what all prompts of a batch begin with, and the block of each state."""

    blocks: PrefixBlocks
    cache: KVBlocks


Dispatched = list[tuple[np.ndarray, Pending]]  # numbers of paths of a wave, and their readouts


class PathEvaluator:
    """Runs waves of paths of prompts, padded to the bucket of the longest, and reads the model.

    States that a wave computed are kept for later waves as long as slots allow.
    """

    def __init__(
        self,
        worker: Worker,
        prompts: Prompts,
        workload: Workload,
        *,
        memory: Memory | None = None,
        tokens: int | None = None,
        prefix: KVBlocks | None = None,
    ):
        """Takes the prompts of a batch.

        Args:
          memory: of the buffers, the worker's when None.
          tokens: T; the bucket of the longest prompt when None.
          prefix: blocks of keys and values of what all prompts continue, for their shapes.
        """
        longest, width = map(max, zip(*buckets(prompts), strict=True))
        size = longest if tokens is None else tokens
        memory = worker.memory if memory is None else memory
        self.worker, self.reads = worker, np.asarray(prompts.read).shape[1]
        self.prompts = cut(prompts, size, self.reads)
        self.read_positions = ReadPositions(prompts, width)
        # with arrays as large, a smaller last batch compiles nothing
        count, on_cpu = capacity(len(prompts.ids)), memory.backend == "cpu"
        states = count * min(workload.wave, STATES_KEPT[on_cpu]) * worker.config.num_layers
        self.sizes = choose_sizes(worker.config, size, width, memory, states)
        self.together = self.sizes.rows  # evaluations that take hardly longer than one
        self.trie = self.new_trie()
        inputs = jax.tree.map(lambda x: enlarge(x, count), self.prompts)
        read = enlarge(self.read_positions.read, count)
        self.driver = Driver(worker, inputs, read, self.sizes.slots)
        # the output after the last one takes what padding rows write
        shape = (self.sizes.outputs + 1, width, worker.config.width)
        self.outputs = worker.buffer(shape, worker.dtype, split=2)
        self.compile(prefix)

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

    def run(self, chunk: Chunk, queries: Queries, prefix: KVBlocks | None = None) -> Readouts:
        """Dispatches a chunk; returns what is read in its outputs."""
        self.outputs, _ = self.driver.run(chunk, self.outputs, prefix=prefix)
        return unembed_queries(self.worker.model, self.outputs, *self.worker.put(queries))

    def queries(self, question: np.ndarray) -> Queries:
        """Says what to read in outputs that belong to these questions."""
        return self.read_positions.queries(question, self.sizes.outputs, self.sizes.unembedded)

    def compile(self, prefix: KVBlocks | None) -> None:
        """Compiles every program."""
        driver, launch = self.driver, self.driver.no_tiles(self.sizes.rows, prefix=prefix)
        nothing = empty_chunk(self.sizes.rows)

        def last() -> None:
            self.outputs, _ = driver.last(launch, self.outputs, None, prefix)

        self.worker.compile(
            lambda: driver.inner(launch, None, prefix),
            last,
            lambda: self.run(nothing, self.queries(nothing.paths), prefix),
        )

    def new_trie(self) -> Trie:
        """Makes a trie that holds no state yet."""
        return Trie(self.sizes.slots, self.sizes.rows, self.sizes.outputs)

    def close(self) -> None:
        """Gives the buffers back to the worker."""
        self.driver.close()
        self.worker.give_back(self.outputs)
