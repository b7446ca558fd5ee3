"""A batch: questions of one bucket on one lane, and the states that their waves leave behind."""

import dataclasses
import time
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from cola_jax.execute.device import Device
from cola_jax.execute.forward import Places
from cola_jax.execute.inputs import buckets, cut, no_readings
from cola_jax.execute.memory import Sizes
from cola_jax.execute.plan import Chunk, Cost
from cola_jax.execute.reference import submit_reference
from cola_jax.execute.spots import Spots
from cola_jax.execute.trie import Trie
from cola_jax.execute.worker import Lane
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings


@dataclasses.dataclass
class Use:
    """What was planned so far."""

    evaluations: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)
    planning: float = 0.0  # seconds
    tokens: int = 0  # decoded
    turns: int = 0  # layers run for one token of one row
    turn_rows: int = 0  # rows of the tiles of those, padding included

    def add(self, cost: Cost, planning: float) -> None:
        self.evaluations += cost.finals
        self.cost += cost
        self.planning += planning


class Batch:
    """Runs waves of paths; what a wave computed is there for the next as long as slots allow."""

    def __init__(
        self,
        lane: Lane,
        prompts: Prompts,
        sizes: Sizes,
        *,
        capacity: int,
        dtype: Any,
        use: Use,
        reference: bool = False,
    ):
        """Takes questions of one bucket; arrays on the device have room for `capacity` of them.

        `use` is added to. With `reference`, paths run one by one instead of as planned.
        """
        ((tokens, places),) = set(buckets(prompts))
        self.lane, self.sizes, self.dtype = lane, sizes, dtype
        self.use, self.reference = use, reference
        self.reads = np.asarray(prompts.read).shape[1]
        self.prompts = cut(prompts, tokens, self.reads)
        self.spots = Spots(prompts, places)
        self.trie = Trie(sizes.slots, sizes.rows, sizes.outputs)
        self.device: Device | None = None
        if not reference:
            # with arrays as large, a smaller last batch compiles nothing
            inputs = jax.tree.map(lambda x: enlarge(x, capacity), self.prompts)
            self.device = Device(lane, inputs, enlarge(self.spots.read, capacity), sizes, dtype)
            # the host compiles what is new, while the lane may still be busy with another batch
            self.device.warm(self.spots.ask(np.zeros(0, np.int64), sizes.outputs, sizes.piece))

    def submit(self, paths: np.ndarray) -> tuple[Readings, list[Future[int]]]:
        """Plans a wave [B, C, P] at once, and runs it when the lane comes to it.

        Returns Readings [B, C, Q] that fill as the futures end; each holds how many evaluations
        it adds.
        """
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        if self.reference:
            self.use.evaluations += len(question)
            return self.submit_reference(paths, self.dtype, precision=None)
        rows = np.concatenate([question[:, None], paths[question, candidate]], axis=1)
        begun = time.perf_counter()
        chunks, cost = self.trie.plan(rows)
        self.use.add(cost, time.perf_counter() - begun)
        out = no_readings(paths, self.reads)
        return out, [
            self.submit_chunk(chunk, question[chunk.paths], candidate[chunk.paths], out)
            for chunk in chunks
        ]

    def submit_chunk(
        self, chunk: Chunk, question: np.ndarray, candidate: np.ndarray, out: Readings
    ) -> Future[int]:
        """Runs one chunk, whose outputs are of these candidates of these questions."""
        asked = self.spots.ask(question, self.sizes.outputs, self.sizes.piece)
        device = self.device
        assert device is not None  # closed, or a reference

        def dispatch() -> Places:
            return device.run(chunk, asked)

        def assemble(got: Places) -> int:
            self.spots.spread(got, question, candidate, out)
            return len(question)

        return self.lane.submit(dispatch, assemble)

    def submit_reference(
        self, paths: np.ndarray, dtype: DTypeLike, precision: str | None = "highest"
    ) -> tuple[Readings, list[Future[int]]]:
        """Runs a wave path by path with the reference executor, by default in full precision."""
        return submit_reference(self.lane, self.prompts, paths, dtype, precision)

    def close(self) -> None:
        """Gives the buffers back to the lane; nothing that was submitted may be left to run."""
        if self.device is not None:
            self.lane.give_back(self.device.slots)
            self.lane.give_back(self.device.outputs)
        self.device = None


def enlarge(values: np.ndarray, rows: int) -> np.ndarray:
    """Repeats the first row at the end, up to so many rows."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])
