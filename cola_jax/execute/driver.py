"""Drivers: the prompts of a batch on a worker, and the prefix that all of them share.

A token sees no later ones, so the states of a common prefix, such as shots or instructions, are the
same for all questions on the same path. They are run for one of them, and their keys and values are
kept in KV blocks, one for each state of the prefix; the questions run the tokens after it, which
attend to these blocks. All batches of a worker that begin with the same tokens use the same blocks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.attention import Mode
from cola_jax.execute.forward import embed_prompts, view_prompts
from cola_jax.execute.kv_cache import Kept
from cola_jax.execute.layout import Layout
from cola_jax.execute.memory import Memory, block_bytes, ceil_power, floor_power, tile_rows
from cola_jax.execute.plan import Chunk, TileColumns, Workload
from cola_jax.execute.schedule import PrefixBlocks, Trie, as_rows, count_token_rows, plan_chunks
from cola_jax.execute.worker import Worker
from cola_jax.metrics import Cost
from cola_jax.path import STOP
from cola_jax.prompts import PROMPT, Prompts

Chosen = TypeVar("Chosen")
TARGET, BLOCK = (TileColumns._fields.index(name) for name in ("target", "block"))


class Driver:
    """The prompts of a batch on its worker, and the slots of their hidden states."""

    def __init__(
        self,
        worker: Worker,
        prompts: Prompts,
        read: np.ndarray,
        slots: int,
        layout: Layout,
        questions: int = 1,
        prefix: "SharedPrefix | None" = None,
        pages: jax.Array | None = None,
    ):
        """Take prompts [B, T], the positions read by the last layer [B, Q], and S.

        With arrays of at least as many `questions`, a smaller last batch compiles nothing.
        `prefix` is what all prompts continue, and `pages` those of the blocks that are written.
        """
        prompts, read = jax.tree.map(lambda x: repeat_first(x, questions), (prompts, read))
        self.worker = worker
        self.layout = layout
        self.padding_slot = slots
        self.prefix = prefix
        self.pages = pages
        self.prompts, self.read = worker.put((prompts.replace(read=None, targets=None), read))
        self.views = view_prompts(worker.model, self.prompts, dtype=worker.dtype)
        # padding rows write to the slot after the last one
        shape = (slots + 1, prompts.ids.shape[1], worker.config.state_width)
        self.slots = worker.take_buffer(shape, worker.dtype, split=2)

    def on_paths(self, paths: np.ndarray) -> contextlib.AbstractContextManager[PrefixBlocks | None]:
        """Enter `SharedPrefix.on_paths` where there is a prefix."""
        return contextlib.nullcontext() if self.prefix is None else self.prefix.on_paths(paths)

    def run(
        self, chunk: Chunk, outputs: jax.Array, caches: Sequence[Kept] = ()
    ) -> tuple[jax.Array, Any]:
        """Dispatch a chunk; return the outputs of the last layers, and the caches of each kind."""
        caches = self.fill(chunk, caches)
        last = self.worker.load(chunk.last, self.layout)
        return self.worker.run(last, outputs, self.modes(self.read), caches, source=self.slots)

    def fill(self, chunk: Chunk, caches: Sequence[Kept]) -> Any:
        """Dispatch a chunk but for the last layers, which fills slots; return the caches."""
        worker = self.worker
        if len(chunk.embedded):
            pairs = np.full((len(self.prompts.ids), 2), [0, self.padding_slot], np.int32)
            pairs[: len(chunk.embedded)] = chunk.embedded
            self.slots = embed_prompts(
                worker.model, self.slots, self.prompts, worker.put(pairs), dtype=worker.dtype
            )
        launches = worker.load(chunk.tiles, self.layout)
        self.slots, caches = worker.run(launches, self.slots, self.modes(), caches)
        return caches

    def modes(self, read: jax.Array | None = None) -> list[Mode]:
        """Return the mode of tiles of each kind of layer."""
        prefix = None if self.prefix is None else self.prefix.caches
        return self.worker.modes_over_prompts(self.views, prefix, read, self.pages)

    def close(self) -> None:
        """Give the slots back to the worker, and leave the prefix to its next batch."""
        self.worker.give_back(self.slots)
        if self.prefix is not None:
            self.prefix.close()


def repeat_first(values: Any, rows: int) -> np.ndarray:
    """Repeat the first row at the end, up to `rows` rows."""
    values = np.asarray(values)
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])


class PrefixTrie(Trie):
    """The states of a prefix that all questions share; a state's slot is its KV block as well.

    The states of a wave keep their slots until the next one is planned. The slots hold the embedded
    prefix and the states of at least one path.
    """

    def plan_prefix(self, paths: np.ndarray) -> tuple[list[Chunk], PrefixBlocks, Cost]:
        """Plan paths [n, P], padded with STOP and all different, whose states fit together.

        Return the chunks, whose last layers are not run, the block of each state, and the cost.
        """
        # with a layer more, which is not run, the state after the last layer is one like others
        ended = np.concatenate([paths, np.full((len(paths), 1), STOP, paths.dtype)], axis=1)
        ended[np.arange(len(paths)), (paths != STOP).sum(axis=1)] = 0
        wave = as_rows(np.concatenate([np.zeros((len(paths), 1), paths.dtype), ended], axis=1))
        nodes, new = self.merge(wave)
        nodes.pinned[nodes.grid[new][:, :-1][nodes.inside[new][:, 1:]]] = True
        chunks, cost = plan_chunks(nodes, new, self.chunk_size, self.slots, self.layout)
        for chunk in chunks:
            chunk.tiles.table[:, BLOCK] = chunk.tiles.table[:, TARGET]
        token_rows = sum(count_token_rows(chunk.tiles, self.layout) for chunk in chunks)
        tokens = cost.unique * int(self.layout.length[0])
        cost = cost._replace(useful=0, last=0, tokens=tokens, token_rows=token_rows)
        self.keep_held(nodes)
        return chunks, PrefixBlocks(nodes, new, self.slots), cost


class SharedPrefix:
    """A prefix on a worker, with the states of the paths that were run last, for several batches.

    A prefix stays for the next batch that begins with it, until another takes its place.
    """

    def __init__(self, worker: Worker, ids: np.ndarray, blocks: int):
        """Take the tokens [T], and M."""
        self.worker = worker
        self.key = (ids.tobytes(), blocks)
        self.blocks = blocks
        self.users = 0
        self.lock = threading.Lock()
        self.caches = worker.take_pages([blocks] * len({*worker.cache_of}), len(ids))
        limits = worker.memory.limits
        self.layout = Layout.of_rows(len(ids), tile_rows(limits, len(ids)), page=limits.page)
        self.trie = PrefixTrie(blocks, self.layout, blocks)
        positions = np.arange(len(ids), dtype=np.int32)[None]
        prompts = Prompts(ids[None], positions, branch=np.full_like(positions, PROMPT))
        # a position for a last layer, which is not run
        self.driver = Driver(worker, prompts, positions[:, -1:], blocks, self.layout)

    @contextlib.contextmanager
    def on_paths(self, paths: np.ndarray) -> Iterator[PrefixBlocks]:
        """Run the missing states on a group of paths [n, P]; yield the blocks of all.

        Programs that read them are dispatched before the context ends: later ones may write to the
        same blocks.
        """
        with self.lock:
            try:
                chunks, blocks, cost = self.trie.plan_prefix(np.unique(paths, axis=0))
                self.worker.metrics.add(cost=cost, prefix_layers=cost.unique)
                self.worker.dispatch(lambda: self.fill(chunks))
            except BaseException:  # planned states may not be run
                self.trie = PrefixTrie(self.blocks, self.layout, self.blocks)
                raise
            yield blocks

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Dispatch the embedded prefix and tiles."""
        for chunk in chunks:
            self.caches = self.driver.fill(chunk, self.caches)

    def groups(self, paths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the numbers of paths [n, P] in groups whose states fit together."""
        distinct, number = np.unique(paths, axis=0, return_inverse=True)
        fresh = np.ones(distinct.shape, bool)
        fresh[1:] = ~np.logical_and.accumulate(distinct[1:] == distinct[:-1], axis=1)
        new = (fresh & (distinct != STOP)).sum(axis=1).tolist()
        length = (distinct != STOP).sum(axis=1).tolist()
        bounds = []  # the embedded prefix
        used = 1
        for i, (added, alone) in enumerate(zip(new, length, strict=True)):
            used += added
            if used > self.blocks:
                bounds.append(i)
                used = 1 + alone
        group = np.searchsorted(bounds, number, side="right")
        for i in range(len(bounds) + 1):
            yield np.flatnonzero(group == i)

    def count_fitting(self, paths: Sequence[np.ndarray]) -> int:
        """Count the paths [P], from the first on, whose states fit together; at least one."""
        states: set[bytes] = set()
        for i, path in enumerate(paths):
            states |= {path[: n + 1].tobytes() for n in range(len(path))}
            if i and len(states) >= self.blocks:
                return i
        return len(paths)

    def close(self) -> None:
        """Leave the prefix to other batches."""
        with self.worker.sharing:
            self.users -= 1


def open_prefix(
    worker: Worker,
    prompts: Prompts,
    workload: Workload,
    choose_sizes: Callable[[int, Memory], Chosen],
) -> tuple[SharedPrefix | None, int, Chosen]:
    """Open the prefix that prompts share, where its states fit.

    Args:
      prompts: of a batch, whose first `workload.prefix` tokens are the same.
      choose_sizes: chooses the sizes of the batch, given the tokens of the prefix and the memory
        beside its states; InputError where that is too small.

    Returns:
      The prefix, which the batch closes, or None; its tokens; and the sizes.
    """
    if workload.prefix and (blocks := count_blocks(worker, workload)) > workload.positions:
        memory = worker.memory._replace(budget=worker.memory.budget * 3 // 4)
        try:
            sizes = choose_sizes(workload.prefix, memory)
        except InputError:
            pass
        else:
            ids = np.asarray(prompts.ids)[0, : workload.prefix].astype(np.int32)
            return share_prefix(worker, ids, blocks), workload.prefix, sizes
    with worker.sharing:
        evict_unused(worker)  # whole prompts take all of the budget
    return None, 0, choose_sizes(0, worker.memory)


def count_blocks(worker: Worker, workload: Workload) -> int:
    """Return the states of a prefix that a quarter of a batch's budget holds, or all needed."""
    config = worker.config
    memory = worker.memory
    tokens = workload.prefix
    itemsize = memory.itemsize
    block = tokens * config.state_width * itemsize + sum(block_bytes(config, tokens, itemsize))
    most = memory.budget // memory.sharing // 4 // block - 1
    needed = 1 + workload.wave * workload.positions  # one is the embedded prefix
    if not workload.same:
        needed = memory.limits.prefix_states
    return min(floor_power(max(0, most)), ceil_power(needed))


def share_prefix(worker: Worker, ids: np.ndarray, blocks: int) -> SharedPrefix:
    """Return the prefix of these tokens that other batches use, or make it."""
    with worker.sharing:
        key = ids.tobytes(), blocks
        evict_unused(worker, key)
        prefix = next((each for each in worker.prefixes if each.key == key), None)
        if prefix is None:
            prefix = SharedPrefix(worker, ids, blocks)
            worker.prefixes.append(prefix)
        prefix.users += 1
        return prefix


def evict_unused(worker: Worker, key: Any = None) -> None:
    """Free unused prefixes, except `key`."""
    worker.prefixes = [each for each in worker.prefixes if each.users or each.key == key]
