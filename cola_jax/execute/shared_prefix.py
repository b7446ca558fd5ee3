"""Prompts that begin alike: what they share, as shots or instructions, is run once for a path.

A token sees no later ones, so the states of a common prefix are the same for all questions on the
same path. They are run for one of them, and their keys and values are kept in KV blocks, one for
each state of the prefix; the questions run the tokens after it, which attend to these blocks. The
blocks stay from batch to batch as long as these begin with the same tokens.
"""

import jax
import numpy as np

from cola_jax.execute.evaluator import Driver, PathEvaluator, Prefix, Workload, empty_chunk
from cola_jax.execute.inputs import bucket, buckets, cut, no_readings
from cola_jax.execute.kv_cache import Admission, KVBlocks
from cola_jax.execute.memory import Memory, ceil_power, choose_sizes, floor_power
from cola_jax.execute.plan import Chunk
from cola_jax.execute.schedule import PrefixBlocks, beginnings
from cola_jax.execute.worker import Pending, Worker
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, PADDING, PROMPT, Prompts, Readings

LEAST_TOKENS = 8  # of a bucket: what follows a prefix may be short
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
WAITING = 4  # tiles of states of the prefix that may wait at a time


def path_evaluator(
    worker: Worker, prompts: Prompts, workload: Workload
) -> "PathEvaluator | SharedPrefixEvaluator":
    """Makes what runs paths of a batch: a common prefix once, where that pays and fits."""
    size = workload.prefix
    if size is None:
        size = prefix_to_share(prompts) if workload.same else 0
    if size:
        blocks = blocks_within(worker, size, workload)
        if blocks >= workload.positions and fits(worker, prompts, size):
            return SharedPrefixEvaluator(worker, prompts, workload, size, blocks)
    worker.take(None)  # whole prompts take all of the budget
    return PathEvaluator(worker, prompts, workload)


def fits(worker: Worker, prompts: Prompts, size: int) -> bool:
    """Whether the buffers of what follows the prefix fit beside its KV blocks."""
    width = max(reads for _, reads in buckets(prompts))
    try:
        choose_sizes(worker.config, tokens_after(prompts, size), width, beside_blocks(worker))
    except ValueError:
        return False
    return True


def beside_blocks(worker: Worker) -> Memory:
    """Returns the memory that the KV blocks leave."""
    return worker.memory._replace(budget=worker.memory.budget * 3 // 4)


def common_prefix(prompts: Prompts) -> int:
    """Counts the tokens with which all prompts begin, before the first that is read."""
    columns = np.asarray(prompts.branch) == PROMPT
    same = columns.all(axis=0)
    for name in ("ids", "positions"):
        values = np.asarray(getattr(prompts, name))
        same &= (values == values[:1]).all(axis=0)
    same &= np.asarray(prompts.positions)[0] == np.arange(len(same))
    read = np.asarray(prompts.read)
    first = int(np.where(read == NO_READ, len(same), read).min())
    return min(first, int(np.argmin(np.append(same, False))))


def prefix_to_share(prompts: Prompts) -> int:
    """Returns the tokens of the common prefix where running it once pays, else 0."""
    size, count = common_prefix(prompts), len(prompts.ids)
    if not size or count < 2:
        return 0
    whole = max(tokens for tokens, _ in buckets(prompts))
    return size if pays(size, whole, tokens_after(prompts, size), count) else 0


def pays(size: int, whole: int, after: int, count: int) -> bool:
    """Whether a prefix of `count` prompts pays: each runs `after` tokens in place of `whole`."""
    return whole / (after + size / count) > LEAST_GAIN


def shared_by_each(prompts: Prompts, count: int) -> list[tuple[int, int]]:
    """Returns, for each prompt, the tokens of the common prefix to run once, and T after them.

    The prefix is what the first two prompts have in common, so that it does not depend on how many
    follow. A prompt shares none, (0, 0), where it begins otherwise, or where running it once for
    `count` prompts would gain little.
    """

    def of(*rows: int) -> Prompts:
        return jax.tree.map(lambda x: np.asarray(x)[list(rows)], prompts)

    whole = [tokens for tokens, _ in buckets(prompts)]
    size = common_prefix(of(0, 1)) if len(whole) > 1 else 0
    alike = [bool(size) and common_prefix(of(0, i)) >= size for i in range(len(whole))]
    after = [tokens_after(of(i), size) for i in range(len(whole))]
    return [
        (size, after[i]) if alike[i] and pays(size, whole[i], after[i], count) else (0, 0)
        for i in range(len(whole))
    ]


def tokens_after(prompts: Prompts, size: int) -> int:
    """Returns T of the tokens that follow the first `size`."""
    longest = int((np.asarray(prompts.branch) != PADDING).sum(axis=1).max())
    return bucket(longest - size, LEAST_TOKENS)


def blocks_within(worker: Worker, size: int, workload: Workload) -> int:
    """Returns the KV blocks of `size` tokens that a quarter of the budget holds, or all needed."""
    config, memory = worker.config, worker.memory
    block = 2 * config.num_kv_heads * config.head_dim * size * memory.itemsize
    most = memory.budget // memory.sharing // 4 // block - 1
    return min(floor_power(max(0, most)), ceil_power(workload.wave * workload.positions))


class PrefixStore:
    """Keys and values of a prefix, and the blocks of the states that it was run in."""

    def __init__(self, cache: KVBlocks):
        self.cache, self.size = cache, len(cache.k) - 1
        self.number: dict[bytes, int] = {}  # of each state's block, by the layers that lead to it

    def admit(self, paths: np.ndarray) -> np.ndarray:
        """Assigns blocks to the states on paths [n, P], and returns those that are to be run.

        Where the blocks do not suffice, the states of all other paths lose theirs.
        """
        every = [beginnings(path) for path in paths]
        if len(self.number.keys() | {one for own in every for one in own}) > self.size:
            self.number.clear()
        new = [own[-1] not in self.number for own in every]
        for own in every:
            for one in own:
                self.number.setdefault(one, len(self.number))
        return paths[new]


class SharedPrefixEvaluator:
    """Runs waves of paths of prompts that begin alike; as `PathEvaluator`."""

    def __init__(
        self, worker: Worker, prompts: Prompts, workload: Workload, size: int, blocks: int
    ):
        """Takes the prompts of a batch, the tokens that they share, and M."""
        self.worker, self.size, self.blocks = worker, size, blocks
        config, memory = worker.config, worker.memory
        self.key = np.asarray(prompts.ids)[0, :size].tobytes(), size, blocks
        store: PrefixStore | None = worker.take(self.key)
        if store is None:
            shape = (blocks + 1, config.num_kv_heads, size, config.head_dim)
            k, v = (worker.buffer(shape, worker.dtype, split=1) for _ in range(2))
            store = PrefixStore(KVBlocks(k=k, v=v))
        self.store = store
        self.rows = choose_sizes(config, size, 1, memory).rows
        self.slots = self.rows * (WAITING + 1)
        self.driver = Driver(worker, *first_tokens(prompts, size), self.slots)
        self.outputs = worker.buffer((2, 1, config.width), worker.dtype, split=2)
        self.rest = PathEvaluator(
            worker,
            without(prompts, size),
            workload,
            memory=beside_blocks(worker),
            tokens=tokens_after(prompts, size),
            prefix=self.store.cache,
        )
        self.together = self.rest.together
        self.compile()

    def __call__(self, paths: np.ndarray) -> Readings:
        """Runs a wave [B, C, P]; returns Readings [B, C, Q] as numpy."""
        out = no_readings(paths, self.rest.reads)
        flat = paths.reshape(-1, paths.shape[-1])
        distinct, number = np.unique(flat, axis=0, return_inverse=True)
        number = number.reshape(paths.shape[:2])
        for first, end in self.groups(distinct):
            inside = (number >= first) & (number < end) & (paths[:, :, 0] != STOP)
            question, candidate = np.nonzero(inside)
            if not len(question):
                continue
            place = (np.cumsum(inside, axis=1) - 1)[question, candidate]
            some = np.full((len(paths), int(place.max()) + 1, paths.shape[-1]), STOP, paths.dtype)
            some[question, place] = paths[question, candidate]
            prefix, pending = self.prefix(distinct[first:end])
            readings = self.rest(some, prefix)
            for run in pending:
                run.get()
            for whole, part in zip(
                (out.logprob, out.token, out.rival, out.finite),
                (readings.logprob, readings.token, readings.rival, readings.finite),
                strict=True,
            ):
                whole[question, candidate] = part[question, place]
        return out

    def groups(self, paths: np.ndarray) -> list[tuple[int, int]]:
        """Cuts sorted paths [n, P] into runs whose states of the prefix have blocks."""
        fresh = np.ones(paths.shape, bool)
        fresh[1:] = ~np.logical_and.accumulate(paths[1:] == paths[:-1], axis=1)
        new = (fresh & (paths != STOP)).sum(axis=1)
        length = (paths != STOP).sum(axis=1)
        groups, first, used = [], 0, 0
        for i in range(len(paths)):
            used += int(new[i] if i > first else length[i])
            if used > self.blocks:
                groups.append((first, i))
                first, used = i, int(length[i])
        return [*groups, (first, len(paths))]

    def prefix(self, paths: np.ndarray) -> tuple[Prefix, list[Pending]]:
        """Dispatches the prefix on paths [n, P]; returns where its keys and values will be."""
        paths = paths[paths[:, 0] != STOP]
        new, pending = self.store.admit(paths), []
        try:
            if len(new):
                states = PrefixBlocks(new, self.store.number, self.blocks)
                # the last layers' results are not needed: row 1 takes what padding writes
                admission = Admission(states.nodes, states.block, np.zeros(len(new), np.int32), 1)
                for chunk, cost in admission.chunks(self.slots, self.rows):
                    self.worker.metrics.add(cost=cost._replace(useful=0))
                    pending.append(self.worker.dispatch(lambda chunk=chunk: self.run(chunk)))
        except BaseException:
            self.store.number.clear()  # what was to be run may not have been
            raise
        blocks = PrefixBlocks(paths, self.store.number, self.blocks)
        return Prefix(blocks, self.store.cache), pending

    def run(self, chunk: Chunk) -> jax.Array:
        """Dispatches a chunk of the prefix; returns what can be waited for."""
        self.outputs, cache = self.driver.run(chunk, self.outputs, self.store.cache)
        self.keep(cache)
        return self.outputs[:1, :1, :1]

    def compile(self) -> None:
        """Compiles what runs the prefix."""
        launch = self.driver.no_tiles(self.rows, self.store.cache)

        def inner() -> None:
            self.keep(self.driver.inner(launch, self.store.cache))

        def last() -> None:
            self.outputs, cache = self.driver.last(launch, self.outputs, self.store.cache)
            self.keep(cache)

        self.worker.compile(inner, last, lambda: self.run(empty_chunk(self.rows)))

    def keep(self, cache: KVBlocks | None) -> None:
        """Keeps the blocks that a program returned: it took those from before."""
        assert cache is not None
        self.store.cache = cache

    def close(self) -> None:
        """Gives the buffers back to the worker, and leaves the prefix for its next batch."""
        self.rest.close()
        self.driver.close()
        self.worker.give_back(self.outputs)
        self.worker.leave(self.key, self.store)


def first_tokens(prompts: Prompts, size: int) -> tuple[Prompts, np.ndarray]:
    """Returns the prefix as a prompt [1, size], and the position that its last layer computes."""
    ids = np.asarray(prompts.ids)[:1, :size].astype(np.int32)
    positions = np.arange(size, dtype=np.int32)[None]
    prefix = Prompts(ids=ids, positions=positions, branch=np.full_like(ids, PROMPT))
    return prefix, np.array([[size - 1]], np.int32)


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
