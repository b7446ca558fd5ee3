"""A decoder: rows of one token bucket on one worker, decoded step by step until all have ended."""

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.allocator import Allocator, DecodeRow
from cola_jax.execute.common_prefix import tokens_after, without
from cola_jax.execute.driver import Driver, enlarge
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.forward import Context, Launch, embed_tokens, forward
from cola_jax.execute.inputs import bucket, buckets, cut
from cola_jax.execute.kv_cache import KVBlocks, Past
from cola_jax.execute.memory import Memory, capacity, choose_decode_sizes
from cola_jax.execute.readouts import ChosenToken, greedy_sample
from cola_jax.execute.shared_prefix import SharedPrefix, beside_blocks, fits
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Pending, Worker
from cola_jax.path import STOP, pad_path
from cola_jax.prompts import PROMPT, Prompts

AHEAD = 2  # steps dispatched, so that the devices never wait to hear of a stop
STOPPED, TRUNCATED, NOT_FINITE = "stop", "length", "not finite"  # why a row ended


class Decoder:
    """Decodes rows of the prompts it was made for; its buffers serve any number of rows."""

    def __init__(
        self,
        worker: Worker,
        prompts: Prompts,
        workload: Workload,
        *,
        max_new_tokens: int,
        stop: Stop,
    ):
        """Takes plain prompts, padded to the bucket of the longest; `workload` bounds the paths."""
        choose = functools.partial(
            choose_decode_sizes,
            worker.config,
            positions=workload.positions,
            max_new_tokens=max_new_tokens,
            wanted=workload.wave * len(prompts.ids),
            fixed=workload.fixed,
        )
        tokens, _ = map(max, zip(*buckets(prompts), strict=True))
        self.lengths = (np.asarray(prompts.branch) == PROMPT).sum(axis=1).astype(np.int32)
        size, memory, self.shared = workload.prefix, beside_blocks(worker), None
        after = size + tokens_after(prompts, size)
        if size and fits(worker, workload, lambda: choose(after, memory, prefix=size)):
            sizes = choose(after, memory, prefix=size)
            self.shared = SharedPrefix.of(worker, prompts, workload)
            tokens, prompts = after, without(prompts, size)
        else:
            sizes = choose(tokens, worker.memory)
            worker.share_nothing()  # whole prompts take all of the budget
            size, prompts = 0, cut(prompts, tokens, 0)
        config = worker.config
        self.worker, self.sizes = worker, sizes
        self.stop, self.limit = stop, max_new_tokens
        self.allocator = Allocator(sizes.decode_slots, sizes.blocks, sizes.positions)
        count = capacity(len(prompts.ids))
        inputs = jax.tree.map(lambda x: enlarge(np.asarray(x), count), prompts)
        ends = enlarge(self.lengths - size - 1, count)[:, None]
        self.driver = Driver(worker, inputs, ends, sizes.slots)
        self.prompt, self.decoded = (self.blocks(length) for length in (tokens, sizes.kept))
        states = np.zeros((sizes.decode_slots + 1, config.width), worker.dtype)
        self.states = worker.put(states)
        self.tokens = worker.put(np.zeros(sizes.decode_slots + 1, np.int32))
        self.planned: tuple[bytes, int, list[Launch]] | None = None  # the last step's

    def blocks(self, tokens: int) -> KVBlocks:
        """Makes KV blocks of that many tokens, and one for padding."""
        config = self.worker.config
        shape = (self.sizes.blocks + 1, config.num_kv_heads, tokens, config.head_dim)
        k, v = (self.worker.buffer(shape, self.worker.dtype, split=1) for _ in range(2))
        return KVBlocks(k=k, v=v)

    def __call__(self, paths: np.ndarray) -> list[DecodeRow]:
        """Decodes every path [B, C, P] that is not padding; returns its rows in order."""
        rows = rows_of(paths)
        with self.worker.decoding:
            self.decode(rows)
        return rows

    def decode(self, rows: Sequence[DecodeRow]) -> None:
        """Decodes rows to their ends; what they decoded is then in them."""
        # sorted, so that those that share a prefix are admitted together
        waiting = deque(sorted(rows, key=lambda row: (row.question, row.path.tolist())))
        dispatched: deque[tuple[list[DecodeRow], Pending]] = deque()
        while True:
            while len(dispatched) < AHEAD and (step := self.advance(waiting)) is not None:
                dispatched.append(step)
            if not dispatched:
                return
            some, pending = dispatched.popleft()
            self.collect(some, pending.get())

    def advance(self, waiting: deque[DecodeRow]) -> tuple[list[DecodeRow], Pending] | None:
        """Dispatches what comes next: the prefill of new rows, or a step of those admitted."""
        soon = list(itertools.islice(waiting, self.sizes.decode_slots))
        room = self.allocator.room(soon)
        if room and self.shared is not None:
            room = self.shared.value.room([row.path for row in soon[:room]])
        admitted = [row for row in self.allocator.row if row is not None]
        # few new rows fill their tiles badly, so they wait for more slots to be free
        enough = min(len(waiting), max(1, self.sizes.decode_slots // 4))
        if room and (not admitted or room >= enough):
            return self.prefill([waiting.popleft() for _ in range(room)])
        active = [row for row in admitted if row.asked < self.limit]
        return self.step(active) if active else None

    def prefill(self, rows: list[DecodeRow]) -> tuple[list[DecodeRow], Pending]:
        """Admits rows, runs their prompts, and chooses the first token of each."""
        admission = self.allocator.admit(rows, self.lengths)
        slots = self.sampled(rows)
        with self.prefix_of(rows) as (blocks, fill):
            begun = time.perf_counter()
            chunks = admission.chunks(self.sizes.slots, self.sizes.rows, blocks)
            for _, cost in chunks:
                self.worker.metrics.add(cost=cost)
            self.worker.metrics.add(planning=time.perf_counter() - begun)

            def program() -> ChosenToken:
                fill()
                prefix = None if self.shared is None else self.shared.value.cache
                for chunk, _ in chunks:
                    self.states, cache = self.driver.run(chunk, self.states, self.prompt, prefix)
                    assert cache is not None
                    self.prompt = cache
                return self.sample(slots)

            return rows, self.worker.dispatch(program)

    def prefix_of(self, rows: Sequence[DecodeRow]) -> contextlib.AbstractContextManager[Any]:
        """Plans the shared prefix on the paths of rows; see `SharedPrefix.planned`."""
        if self.shared is None:
            return contextlib.nullcontext((None, lambda: None))
        paths = [pad_path(row.path.tolist(), self.sizes.positions) for row in rows]
        return self.shared.value.planned(np.unique(paths, axis=0))

    def step(self, rows: list[DecodeRow]) -> tuple[list[DecodeRow], Pending]:
        """Runs every layer of each row's path for the token it decoded last, and chooses one."""
        allocator, worker = self.allocator, self.worker
        active = np.array([row.slot for row in rows], np.int32)
        allocator.decoded[active] = [row.asked for row in rows]
        reach = min(bucket(int(allocator.decoded[active].max()), 32), self.sizes.kept)
        past = Past(None, *worker.put((allocator.length.copy(), allocator.decoded.copy())))
        launches, slots = self.plan(active), self.sampled(rows)

        def program() -> ChosenToken:
            self.states, views = embed_tokens(
                worker.model, self.states, self.tokens, past, dtype=worker.dtype
            )
            context = Context(views, past=past._replace(prompt=self.prompt))
            for launch in launches:
                self.states, cache = forward(
                    worker.config,
                    launch,
                    self.states,
                    self.decoded,
                    context,
                    reach=reach,
                    decode_kernel=worker.decode_kernel,
                )
                assert cache is not None
                self.decoded = cache
            return self.sample(slots)

        return rows, worker.dispatch(program)

    def plan(self, active: np.ndarray) -> list[Launch]:
        """Plans a step, or takes the last plan where the same rows go on."""
        tables = self.allocator
        key = b"".join(
            table[active].tobytes()
            for table in (tables.path, tables.own_block, tables.prompt_block)
        )
        key += active.tobytes()
        if self.planned is None or self.planned[0] != key:
            begun = time.perf_counter()
            tiles = self.allocator.step_tiles(active, self.sizes.decode_rows)
            self.planned = (key, tiles.source.size, list(self.worker.launches(tiles)))
            self.worker.metrics.add(planning=time.perf_counter() - begun)
        layers = int((self.allocator.path[active] != STOP).sum())
        self.worker.metrics.add(decode_layers=layers, decode_rows=self.planned[1])
        return self.planned[2]

    def sampled(self, rows: Sequence[DecodeRow]) -> tuple[np.ndarray, np.int32]:
        """Notes that rows choose a token; returns their slots U at a time, and how many times."""
        size, slots = self.sizes.unembedded, [row.slot for row in rows]
        for row in rows:
            row.asked += 1
        most = -(-self.sizes.decode_slots // size)
        table = np.full(most * size, self.allocator.padding_slot, np.int32)
        table[: len(slots)] = slots
        return table.reshape(most, size), np.int32(-(-len(slots) // size))

    def sample(self, slots: tuple[np.ndarray, np.int32]) -> ChosenToken:
        """Dispatches the choice of a token for each of these slots."""
        self.tokens, sample = greedy_sample(
            self.worker.model, self.states, self.tokens, *self.worker.put(slots)
        )
        return sample

    def collect(self, rows: Sequence[DecodeRow], sample: ChosenToken) -> None:
        """Takes the tokens that rows chose, and releases those that have ended."""
        token, first, second, finite, entropy, certainty = (x.reshape(-1).tolist() for x in sample)
        tokens = ended = 0
        for i, row in enumerate(rows):
            if row.finish:  # it ended while this step was being computed
                continue
            if not finite[i]:
                row.finish = NOT_FINITE
            else:
                row.tokens.append(token[i])
                row.logprob.append(first[i])
                row.rival.append(second[i])
                row.entropy.append(entropy[i])
                row.certainty.append(certainty[i])
                tokens += 1
                if self.stop.reached(row.tokens):
                    row.finish = STOPPED
                elif len(row.tokens) == self.limit:
                    row.finish = TRUNCATED
            if row.finish:
                self.allocator.release(row)
                ended += 1
        self.worker.metrics.add(tokens=tokens, evaluations=ended)

    def close(self) -> None:
        """Gives the buffers back to the worker."""
        self.driver.close()
        self.worker.give_back(*self.prompt, *self.decoded)
        if self.shared is not None:
            self.worker.leave(self.shared)


def check_decode_memory(
    config: ModelConfig, prompts: Prompts, memory: Memory, positions: int, max_new_tokens: int
) -> None:
    """Raises InputError where memory is too small to decode after prompts on the longest path."""
    tokens = max(tokens for tokens, _ in buckets(prompts))
    choose_decode_sizes(config, tokens, memory, positions=positions, max_new_tokens=max_new_tokens)


def rows_of(paths: np.ndarray) -> list[DecodeRow]:
    """Makes a row of every path [B, C, P] that is not padding, in order."""
    return [
        DecodeRow(int(b), paths[b, c][paths[b, c] != STOP])
        for b, c in np.argwhere(paths[:, :, 0] != STOP)
    ]
