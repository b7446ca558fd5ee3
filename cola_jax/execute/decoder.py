"""A decoder: rows of a batch on one worker, decoded step by step until all have ended."""

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
from cola_jax.execute.batches import without
from cola_jax.execute.evaluator import Driver, Workload, enlarge, layout_of, slot_sizes
from cola_jax.execute.forward import embed_tokens
from cola_jax.execute.inputs import bucket, cut, token_counts
from cola_jax.execute.memory import Memory, capacity, choose_decode_sizes
from cola_jax.execute.plan import Layout, TileShape
from cola_jax.execute.prefix import SharedPrefix, beside_blocks, fits
from cola_jax.execute.readouts import ChosenToken, greedy_sample
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Launches, Pending, Worker
from cola_jax.path import STOP, pad_path
from cola_jax.prompts import Prompts

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
        )
        self.lengths = token_counts(prompts).astype(np.int32)
        size, memory, self.shared = workload.prefix, beside_blocks(worker), None
        limits, ends = memory.limits, [1] * len(prompts.ids)

        def layout_after(size: int) -> tuple[Layout, int]:
            layout = layout_of(without(prompts, size), ends, limits)
            return last_only(layout), size + slot_sizes(layout)[0]

        self.layout, tokens = layout_after(size)
        if size and not fits(worker, workload, lambda: choose(tokens, memory, prefix=size)):
            size, (self.layout, tokens) = 0, layout_after(0)
        if size:
            self.shared = SharedPrefix.of(worker, prompts, workload)
        else:
            memory = worker.memory
            worker.share_nothing()  # whole prompts take all of the budget
        sizes = choose(tokens, memory, prefix=size)
        prompts, config = cut(without(prompts, size), tokens - size, 0), worker.config
        self.worker, self.sizes = worker, sizes
        self.stop, self.limit = stop, max_new_tokens
        self.allocator = Allocator(sizes.decode_slots, sizes.blocks, sizes.positions)
        count = capacity(len(prompts.ids))
        inputs = jax.tree.map(lambda x: enlarge(np.asarray(x), count), prompts)
        last = enlarge(self.lengths - size - 1, count)[:, None]
        self.driver = Driver(worker, inputs, last, sizes.slots, self.layout)
        self.longest = tokens  # of a prompt, rounded up
        self.prompt, self.decoded = (
            worker.blocks(sizes.blocks, length) for length in (tokens, sizes.kept)
        )
        states = np.zeros((sizes.decode_slots + 1, 1, config.width), worker.dtype)
        self.states = worker.put(states)
        self.tokens = worker.put(np.zeros(sizes.decode_slots + 1, np.int32))
        self.step_layout = Layout.of_one(TileShape(sizes.rows, 1))
        self.planned: tuple[bytes, int, Launches] | None = None  # the last step's

    def __call__(self, paths: np.ndarray) -> list[DecodeRow]:
        """Decodes every path [B, C, P] that is not padding; returns its rows in order."""
        rows = rows_of(paths)
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
            chunks = admission.chunks(self.sizes.slots, self.layout, blocks)
            for _, cost in chunks:
                self.worker.metrics.add(cost=cost)
            self.worker.metrics.add(planning=time.perf_counter() - begun)

            def program() -> list[ChosenToken]:
                fill()
                prefix = None if self.shared is None else self.shared.value.cache
                for chunk, _ in chunks:
                    self.states, self.prompt = self.driver.run(
                        chunk, self.states, self.prompt, prefix
                    )
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
        # a short text does not pay for a long one
        reach = (
            min(bucket(int(allocator.length[active].max()), 32), self.longest),
            min(bucket(int(allocator.decoded[active].max()), 32), self.sizes.kept),
        )
        lengths = worker.put((allocator.length.copy(), allocator.decoded.copy()))
        launches, slots = self.plan(active), self.sampled(rows)

        def program() -> list[ChosenToken]:
            self.states, views = embed_tokens(
                worker.model, self.states, self.tokens, *lengths, dtype=worker.dtype
            )
            mode = worker.kind.to_cache(
                views, self.prompt, *lengths, reach=reach, kernel=worker.decode_kernel
            )
            self.states, self.decoded = worker.run(launches, self.states, mode, self.decoded)
            return self.sample(slots)

        return rows, worker.dispatch(program)

    def plan(self, active: np.ndarray) -> Launches:
        """Plans a step, or takes the last plan where the same rows go on."""
        tables = self.allocator
        key = b"".join(
            table[active].tobytes()
            for table in (tables.path, tables.own_block, tables.prompt_block)
        )
        key += active.tobytes()
        if self.planned is None or self.planned[0] != key:
            begun = time.perf_counter()
            tiles = self.allocator.step_tiles(active, self.step_layout)
            self.planned = (key, tiles.state.size, self.worker.load(tiles, self.step_layout))
            self.worker.metrics.add(planning=time.perf_counter() - begun)
        layers = int((self.allocator.path[active] != STOP).sum())
        self.worker.metrics.add(decode_layers=layers, decode_rows=self.planned[1])
        return self.planned[2]

    def sampled(self, rows: Sequence[DecodeRow]) -> np.ndarray:
        """Note that rows choose a token; returns their slots, U at a time [N, U]."""
        size, slots = self.sizes.unembedded, [row.slot for row in rows]
        for row in rows:
            row.asked += 1
        table = np.full(-(-len(slots) // size) * size, self.allocator.padding_slot, np.int32)
        table[: len(slots)] = slots
        return table.reshape(-1, size)

    def sample(self, slots: np.ndarray) -> list[ChosenToken]:
        """Dispatch the choice of a token for each of these slots."""
        samples = []
        for some in self.worker.put(list(slots)):
            self.tokens, sample = greedy_sample(self.worker.model, self.states, self.tokens, some)
            samples.append(sample)
        return samples

    def collect(self, rows: Sequence[DecodeRow], samples: Sequence[ChosenToken]) -> None:
        """Takes the tokens that rows chose, and releases those that have ended."""
        token, first, second, finite, entropy, certainty = (
            np.concatenate(column).tolist() for column in zip(*samples, strict=True)
        )
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
        self.worker.give_back(*jax.tree.leaves((self.prompt, self.decoded)))
        if self.shared is not None:
            self.worker.leave(self.shared)


def check_decode_memory(
    config: ModelConfig, prompts: Prompts, memory: Memory, positions: int, max_new_tokens: int
) -> None:
    """Raise InputError where memory is too small to decode after prompts on the longest path."""
    tokens, _ = slot_sizes(layout_of(prompts, [1] * len(prompts.ids), memory.limits))
    choose_decode_sizes(config, tokens, memory, positions=positions, max_new_tokens=max_new_tokens)


def last_only(layout: Layout) -> Layout:
    """Return the layout of prompts that are read at one position alone."""
    return layout._replace(shapes=tuple(shape._replace(reads=1) for shape in layout.shapes))


def rows_of(paths: np.ndarray) -> list[DecodeRow]:
    """Makes a row of every path [B, C, P] that is not padding, in order."""
    return [
        DecodeRow(int(b), paths[b, c][paths[b, c] != STOP])
        for b, c in np.argwhere(paths[:, :, 0] != STOP)
    ]
