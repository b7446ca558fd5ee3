"""Prompts that begin alike: what they share, as shots or instructions, is run once for a path.

A token sees no later ones, so the states of a common prefix are the same for all questions on the
same path. They are run for one of them, and their keys and values are kept in KV blocks, one for
each state of the prefix; the questions run the tokens after it, which attend to these blocks. All
batches of a worker that begin with the same tokens use the same blocks.
"""

import threading
from collections.abc import Iterator

import jax
import numpy as np

from cola_jax.execute.evaluator import Driver, PathEvaluator, Prefix, Workload, empty_chunk
from cola_jax.execute.inputs import bucket, buckets, cut, no_readings
from cola_jax.execute.kv_cache import KVBlocks
from cola_jax.execute.memory import Memory, ceil_power, choose_sizes, default_rows, floor_power
from cola_jax.execute.plan import Tiles
from cola_jax.execute.trie import PrefixTrie
from cola_jax.execute.worker import Pending, Shared, Worker
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, PADDING, PROMPT, Prompts, Readings

# Tokens of a prefix: two questions that happen to begin with the same word have the same one.
MULTIPLE = 8
LEAST_TOKENS = 8  # of a bucket: what follows a prefix may be short
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
# The states of a prefix that are run, over those of one question's tokens. Where each question has
# paths of its own, that is what questions do not have in common: 0.74 of the states of 8 questions'
# searches (SmolLM2, ARC-Easy), 0.70 of 24.
FRESH = 0.75
MOST_STATES = (4096, 1024)  # elsewhere, and on a CPU, where paths differ


def path_evaluator(
    worker: Worker, prompts: Prompts, workload: Workload
) -> "PathEvaluator | SharedPrefixEvaluator":
    """Makes what runs paths of a batch: a common prefix once, where it fits."""
    if workload.prefix and fits(worker, prompts, workload):
        return SharedPrefixEvaluator(worker, prompts, workload)
    worker.share_nothing()  # whole prompts take all of the budget
    return PathEvaluator(worker, prompts, workload)


def fits(worker: Worker, prompts: Prompts, workload: Workload) -> bool:
    """Whether a path's states of the prefix fit, and beside them what follows it."""
    size = workload.prefix
    if blocks_within(worker, workload) <= workload.positions:
        return False
    width = max(reads for _, reads in buckets(prompts))
    try:
        choose_sizes(worker.config, tokens_after(prompts, size), width, beside_blocks(worker))
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
        needed = MOST_STATES[memory.backend == "cpu"]
    return min(floor_power(max(0, most)), ceil_power(needed))


def common_prefix(prompts: Prompts) -> int:
    """Counts the tokens with which all prompts begin, before the first that is read."""
    columns = np.asarray(prompts.branch) == PROMPT
    same = columns.all(axis=0)
    for name in ("ids", "positions"):
        values = np.asarray(getattr(prompts, name))
        same &= (values == values[:1]).all(axis=0)
    same &= np.asarray(prompts.positions)[0] == np.arange(len(same))
    return min(first_read(prompts), int(np.argmin(np.append(same, False))))


def first_read(prompts: Prompts) -> int:
    """Returns the first token that is read: where nothing is, the last of the shortest prompt."""
    if prompts.read is None:
        return int((np.asarray(prompts.branch) != PADDING).sum(axis=1).min()) - 1
    read = np.asarray(prompts.read)
    return int(np.where(read == NO_READ, prompts.ids.shape[1], read).min())


def pays(size: int, whole: int, after: int, fresh: float) -> bool:
    """Whether a prefix pays: each prompt runs `after` tokens, and a share of it, for `whole`."""
    return whole / (after + size * fresh) > LEAST_GAIN


def shared_by_each(prompts: Prompts, first: int, fresh: float) -> list[tuple[int, int]]:
    """Returns, for each prompt, the tokens of a common prefix to run once, and T after them.

    What the first two prompts have in common is a prefix, and so is what the first one and another
    of the `first` have in common that begins with none of those found so far. So what a prompt
    shares depends on no later one. A prompt shares none, (0, 0), where it begins otherwise, or
    where that would gain little: `fresh` is the share of the prefix's states run for each prompt.
    """

    def of(*rows: int) -> Prompts:
        return jax.tree.map(lambda x: np.asarray(x)[list(rows)], prompts)

    whole = [tokens for tokens, _ in buckets(prompts)]
    common = [common_prefix(of(0, i)) // MULTIPLE * MULTIPLE for i in range(len(whole))]
    sizes = [0]
    for size in common[1:first]:
        if size and not any(0 < other <= size for other in sizes):
            sizes.append(size)
    shared = [max(size for size in sizes if size <= most) for most in common]
    after = [tokens_after(of(i), size) for i, size in enumerate(shared)]
    return [
        (size, t) if size and pays(size, all_tokens, t, fresh) else (0, 0)
        for size, t, all_tokens in zip(shared, after, whole, strict=True)
    ]


def tokens_after(prompts: Prompts, size: int) -> int:
    """Returns T of the tokens that follow the first `size`."""
    longest = int((np.asarray(prompts.branch) != PADDING).sum(axis=1).max())
    return bucket(longest - size, LEAST_TOKENS)


class SharedPrefix:
    """A prefix on a worker: its states on the paths that were asked for last.

    Who runs something after it holds the lock from `run` until that is dispatched: the next one to
    run other paths may write to the same blocks.
    """

    def __init__(self, worker: Worker, ids: np.ndarray, blocks: int):
        """Takes the tokens [size], and M."""
        config, (size,) = worker.config, ids.shape
        self.worker, self.blocks, self.lock = worker, blocks, threading.Lock()
        self.rows = worker.memory.rows or default_rows(worker.memory.backend, size)
        shape = (blocks + 1, config.num_kv_heads, size, config.head_dim)
        k, v = (worker.buffer(shape, worker.dtype, split=1) for _ in range(2))
        self.cache = KVBlocks(k=k, v=v)
        self.trie = PrefixTrie(blocks, self.rows)
        self.driver = Driver(worker, *as_prompt(ids), blocks)
        launch = self.driver.no_tiles(self.rows, self.cache)
        nothing = empty_chunk(self.rows)
        worker.compile(
            lambda: self.keep(self.driver.inner(launch, self.cache)),
            lambda: self.fill(nothing.embedded, [nothing.tiles]),
        )

    @classmethod
    def of(cls, worker: Worker, prompts: Prompts, workload: Workload) -> Shared:
        """Returns the prefix of a batch, shared with others that begin alike and run at a time."""
        ids = np.asarray(prompts.ids)[0, : workload.prefix].astype(np.int32)
        blocks = blocks_within(worker, workload)
        return worker.share((ids.tobytes(), blocks), lambda: cls(worker, ids, blocks))

    def run(self, paths: np.ndarray) -> tuple[Prefix, Pending]:
        """Dispatches the states on paths [n, P] that are not there yet, of one group.

        Returns where all their keys and values will be, and what can be waited for.
        """
        try:
            tiles, embedded, blocks, cost = self.trie.plan_prefix(paths)
            self.worker.metrics.add(cost=cost)
            pending = self.worker.dispatch(lambda: self.fill(embedded, tiles))
        except BaseException:
            self.trie = PrefixTrie(self.blocks, self.rows)  # what is planned may not be run
            raise
        return Prefix(blocks, self.cache), pending

    def fill(self, embedded: np.ndarray, tiles: list[Tiles]) -> jax.Array:
        """Dispatches tiles, after the embedded prefix; returns what can be waited for."""
        for some in tiles:
            self.keep(self.driver.fill(embedded, some, self.cache))
            embedded = embedded[:0]
        return self.cache.k[:1, :1, :1, :1]

    def keep(self, cache: KVBlocks | None) -> None:
        """Keeps the blocks that a program returned: it took those from before."""
        assert cache is not None
        self.cache = cache

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


class SharedPrefixEvaluator:
    """Runs waves of paths of prompts that begin alike; as `PathEvaluator`."""

    def __init__(self, worker: Worker, prompts: Prompts, workload: Workload):
        """Takes the prompts of a batch; `workload.prefix` are the tokens that they share."""
        self.worker, size = worker, workload.prefix
        self.shared = SharedPrefix.of(worker, prompts, workload)
        self.prefix: SharedPrefix = self.shared.value
        try:
            with self.prefix.lock:  # programs are compiled with its blocks
                self.rest = PathEvaluator(
                    worker,
                    without(prompts, size),
                    workload,
                    memory=beside_blocks(worker),
                    tokens=tokens_after(prompts, size),
                    prefix=self.prefix.cache,
                )
        except BaseException:
            worker.leave(self.shared)
            raise
        self.together = self.rest.together

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
        with self.prefix.lock:
            prefix, filled = self.prefix.run(distinct)
            dispatched = self.rest.dispatch(some, prefix)
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


def without(prompts: Prompts, size: int) -> Prompts:
    """Returns prompts without their first tokens; their positions stay as they are."""
    tokens = tokens_after(prompts, size)
    read = np.asarray(prompts.read)
    rest = Prompts(
        ids=np.asarray(prompts.ids)[:, size:],
        positions=np.asarray(prompts.positions)[:, size:],
        branch=np.asarray(prompts.branch)[:, size:],
        read=np.where(read == NO_READ, NO_READ, read - size),
        targets=np.asarray(prompts.targets),
    )
    return cut(rest, tokens, read.shape[1])
