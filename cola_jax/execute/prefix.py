"""Prompts that begin alike: what they share, as shots or instructions, is run once for a path.

A token sees no later ones, so the states of a common prefix are the same for all questions on the
same path. They are run for one of them, and their keys and values are kept in KV blocks, one for
each state of the prefix; the questions run the tokens after it, which attend to these blocks. All
batches of a worker that begin with the same tokens use the same blocks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.batches import without
from cola_jax.execute.evaluator import (
    Driver,
    PathEvaluator,
    Prefix,
    Workload,
    layout_of,
    slot_sizes,
)
from cola_jax.execute.inputs import distinct_reads, no_readings
from cola_jax.execute.memory import Memory, ceil_power, choose_sizes, floor_power, tile_rows
from cola_jax.execute.plan import Layout, Tiles, TileShape
from cola_jax.execute.trie import PrefixBlocks, PrefixTrie
from cola_jax.execute.worker import Shared, Worker
from cola_jax.path import STOP
from cola_jax.prompts import PROMPT, Prompts, Readings


def path_evaluator(
    worker: Worker, prompts: Prompts, workload: Workload
) -> "PathEvaluator | SharedPrefixEvaluator":
    """Make what runs paths of a batch: a common prefix once, where it fits."""
    if workload.prefix:
        rest, memory = without(prompts, workload.prefix), beside_blocks(worker)
        if fits(worker, workload, lambda: check_path_memory(worker.config, rest, memory)):
            return SharedPrefixEvaluator(worker, prompts, workload)
    worker.share_nothing()  # whole prompts take all of the budget
    return PathEvaluator(worker, prompts, workload)


def check_path_memory(config: ModelConfig, prompts: Prompts, memory: Memory) -> None:
    """Raise InputError where memory is too small to run a path of prompts."""
    layout = layout_of(prompts, distinct_reads(prompts), memory.limits)
    choose_sizes(config, *slot_sizes(layout), memory)


def fits(worker: Worker, workload: Workload, choose: Callable[[], Any]) -> bool:
    """Whether a path's states of the prefix fit, and beside them what `choose` chooses sizes of."""
    if blocks_within(worker, workload) <= workload.positions:
        return False
    try:
        choose()
    except ValueError:
        return False
    return True


def beside_blocks(worker: Worker) -> Memory:
    """Returns the memory that the states of a prefix leave."""
    return worker.memory._replace(budget=worker.memory.budget * 3 // 4)


def blocks_within(worker: Worker, workload: Workload) -> int:
    """Returns the states of a prefix that a quarter of a batch's budget holds, or all needed."""
    config, memory = worker.config, worker.memory
    width = config.width + 2 * config.num_kv_heads * config.head_dim
    most = memory.budget // memory.sharing // 4 // (workload.prefix * width * memory.itemsize) - 1
    needed = 1 + workload.wave * workload.positions  # one is the embedded prefix
    if not workload.same:
        needed = memory.limits.prefix_states
    return min(floor_power(max(0, most)), ceil_power(needed))


class SharedPrefix:
    """A prefix on a worker: its states on the paths that were asked for last.

    What runs after it is dispatched before the context of `planned` ends: whoever plans other paths
    then may write to the same blocks.
    """

    def __init__(self, worker: Worker, ids: np.ndarray, blocks: int):
        """Takes the tokens [size], and M."""
        (size,) = ids.shape
        self.worker, self.blocks, self.lock = worker, blocks, threading.Lock()
        self.cache = worker.blocks(blocks, size)
        self.layout = Layout.of_one(TileShape(tile_rows(worker.memory.limits, size), size))
        self.trie = PrefixTrie(blocks, self.layout)
        self.driver = Driver(worker, *as_prompt(ids), blocks, self.layout)

    @classmethod
    def of(cls, worker: Worker, prompts: Prompts, workload: Workload) -> Shared:
        """Returns the prefix of a batch, shared with others that begin alike and run at a time."""
        ids = np.asarray(prompts.ids)[0, : workload.prefix].astype(np.int32)
        blocks = blocks_within(worker, workload)
        return worker.share((ids.tobytes(), blocks), lambda: cls(worker, ids, blocks))

    @contextlib.contextmanager
    def planned(self, paths: np.ndarray) -> Iterator[tuple[PrefixBlocks, Callable[[], jax.Array]]]:
        """Plans the states on paths [n, P] that are not there yet, of one group.

        Yields the blocks of all their states, and what dispatches those that are planned, which is
        to be called before the context ends.
        """
        with self.lock:
            try:
                tiles, embedded, blocks, cost = self.trie.plan_prefix(paths)
                self.worker.metrics.add(cost=cost, prefix_layers=cost.unique)
                yield blocks, lambda: self.fill(embedded, tiles)
            except BaseException:
                self.trie = PrefixTrie(self.blocks, self.layout)  # what is planned may not be run
                raise

    def fill(self, embedded: np.ndarray, tiles: list[Tiles]) -> jax.Array:
        """Dispatches tiles, after the embedded prefix; returns what can be waited for."""
        for some in tiles:
            self.cache = self.driver.fill(embedded, some, self.cache)
            embedded = embedded[:0]
        return jax.tree.leaves(self.cache)[0][:1, :1, :1]

    def groups(self, paths: np.ndarray) -> Iterator[np.ndarray]:
        """Cuts sorted paths [n, P], all different, into groups whose states fit together."""
        fresh = np.ones(paths.shape, bool)
        fresh[1:] = ~np.logical_and.accumulate(paths[1:] == paths[:-1], axis=1)
        new = (fresh & (paths != STOP)).sum(axis=1)
        length = (paths != STOP).sum(axis=1)
        first, used = 0, 1  # the embedded prefix
        for i in range(len(paths)):
            used += int(new[i])
            if i > first and used > self.blocks:
                yield np.arange(first, i)
                first, used = i, 1 + int(length[i])
        if len(paths):
            yield np.arange(first, len(paths))

    def room(self, paths: Sequence[np.ndarray]) -> int:
        """Counts the paths [P], from the first on, whose states fit together; at least one."""
        states: set[bytes] = set()
        for i, path in enumerate(paths):
            states |= {path[: n + 1].tobytes() for n in range(len(path))}
            if i and len(states) >= self.blocks:
                return i
        return len(paths)


class SharedPrefixEvaluator:
    """Runs waves of paths of prompts that begin alike; as `PathEvaluator`."""

    def __init__(self, worker: Worker, prompts: Prompts, workload: Workload):
        """Takes the prompts of a batch; `workload.prefix` are the tokens that they share."""
        self.worker, size = worker, workload.prefix
        self.shared = SharedPrefix.of(worker, prompts, workload)
        self.prefix: SharedPrefix = self.shared.value
        try:
            self.rest = PathEvaluator(
                worker, without(prompts, size), workload, memory=beside_blocks(worker)
            )
        except BaseException:
            worker.leave(self.shared)
            raise

    def __call__(self, paths: np.ndarray) -> Readings:
        """Runs a wave [B, C, P]; returns Readings [B, C, Q] as numpy."""
        out = no_readings(paths, self.rest.reads)
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        distinct, number = np.unique(paths[question, candidate], axis=0, return_inverse=True)
        for group in self.prefix.groups(distinct):
            inside = np.isin(number, group)
            self.run(paths, distinct[group], (question[inside], candidate[inside]), out)
        return out

    def run(
        self,
        paths: np.ndarray,
        distinct: np.ndarray,
        entries: tuple[np.ndarray, np.ndarray],
        out: Readings,
    ) -> None:
        """Runs the entries of a wave whose paths are a group, and writes their readings."""
        question, _ = entries
        nth = np.arange(len(question)) - np.searchsorted(question, question)  # of its question
        some = np.full((len(paths), int(nth.max()) + 1, paths.shape[-1]), STOP, paths.dtype)
        some[question, nth] = paths[entries]
        with self.prefix.planned(distinct) as (blocks, fill):
            filled = self.worker.dispatch(fill)
            dispatched = self.rest.dispatch(some, Prefix(blocks, self.prefix.cache))
        readings = self.rest.collect(some, dispatched)
        filled.get()
        for name in ("logprob", "token", "rival", "finite"):
            getattr(out, name)[entries] = getattr(readings, name)[question, nth]

    def close(self) -> None:
        """Gives the buffers back to the worker, and leaves the prefix for its next batch."""
        self.rest.close()
        self.worker.leave(self.shared)


def as_prompt(ids: np.ndarray) -> tuple[Prompts, np.ndarray]:
    """Returns tokens as a prompt [1, T], and a position for a last layer, which is not run."""
    positions = np.arange(len(ids), dtype=np.int32)[None]
    prefix = Prompts(ids=ids[None], positions=positions, branch=np.full_like(positions, PROMPT))
    return prefix, positions[:, -1:]
