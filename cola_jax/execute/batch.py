"""A batch: questions of one bucket on one lane, and the states that their waves leave behind."""

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from cola_jax.execute.budget import Sizes
from cola_jax.execute.inputs import buckets, cut, no_readings
from cola_jax.execute.lane import Lane
from cola_jax.execute.plan import Chunk, Cost, Tiles, Trie
from cola_jax.execute.scan import path_readings
from cola_jax.execute.spots import Asked, Spots
from cola_jax.execute.tiles import Places, advance, finish, plant, read
from cola_jax.model import view
from cola_jax.params import Layer
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, Prompts, Readings

view_of_all = jax.jit(view, static_argnums=0)

CALL = 1024  # tiles in one call of a program; longer plans make several


@dataclasses.dataclass
class Use:
    """What was planned so far."""

    evaluations: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)
    planning: float = 0.0  # seconds

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
        self.read_mask = np.asarray(prompts.read) != NO_READ
        self.prompts = cut(prompts, tokens, self.read_mask.shape[1])
        self.spots = Spots(prompts, places)
        self.trie = Trie(sizes.slots, sizes.rows, sizes.outputs)
        # a smaller last batch then compiles nothing
        self.arrays = jax.tree.map(lambda x: enlarge(x, capacity), (self.prompts, self.spots.read))
        self.device: Device | None = None

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
        out = no_readings(paths, self.prompts)
        return out, [
            self.submit_chunk(chunk, question[chunk.paths], candidate[chunk.paths], out)
            for chunk in chunks
        ]

    def submit_chunk(
        self, chunk: Chunk, question: np.ndarray, candidate: np.ndarray, out: Readings
    ) -> Future[int]:
        """Runs one chunk, whose outputs are of these candidates of these questions."""
        asked = self.spots.ask(question, self.sizes.outputs, self.sizes.piece)

        def dispatch() -> Places:
            if self.device is None:
                prompts, reads = self.arrays
                self.device = Device(self.lane, prompts, reads, self.sizes, self.dtype)
            return self.device.run(chunk, asked)

        def assemble(got: Places) -> int:
            self.spots.spread(got, question, candidate, out)
            return len(question)

        return self.lane.submit(dispatch, assemble)

    def submit_reference(
        self, paths: np.ndarray, dtype: DTypeLike, precision: str | None = "highest"
    ) -> tuple[Readings, list[Future[int]]]:
        """Runs a wave path by path with the reference executor, by default in full precision."""
        out = no_readings(paths, self.prompts)
        model = self.lane.model
        # one compilation for the weights' own dtype, however it was asked for
        given = None if dtype == model.embedding.dtype else dtype
        if self.lane.device.platform == "cpu":
            precision = None  # it is that anyway, and a setting would compile everything again

        def submit(b: int, c: int) -> Future[int]:
            valid = self.read_mask[b]
            row = jax.tree.map(lambda x: x[b : b + 1], self.prompts)

            def dispatch() -> Readings:
                with jax.default_matmul_precision(precision):
                    return path_readings(model, *self.lane.put((row, paths[b, c])), given)

            def assemble(one: Readings) -> int:
                for name in ("logprob", "token", "rival"):
                    getattr(out, name)[b, c, valid] = getattr(one, name)[0][valid]
                out.finite[b, c] = one.finite[0]
                return 1

            return self.lane.submit(dispatch, assemble)

        return out, [submit(b, c) for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist()]

    def close(self) -> None:
        """Gives the buffers back to the lane, behind all that was submitted."""

        def release():
            if self.device is not None:
                self.lane.give_back(self.device.slots)
                self.lane.give_back(self.device.outputs)
            self.device = None

        self.lane.feeder.submit(release)


class Device:
    """The arrays of a batch on a lane, and the calls that run a chunk on them."""

    def __init__(self, lane: Lane, prompts: Prompts, reads: np.ndarray, sizes: Sizes, dtype: Any):
        self.lane, self.rows, self.dtype = lane, sizes.rows, dtype
        config = self.config = lane.model.config
        tokens, places = prompts.ids.shape[1], reads.shape[1]
        self.ids, self.reads = lane.put(prompts.ids), lane.put(reads)
        self.view = view_of_all(config, lane.put(prompts))
        # the slot behind the last one takes what padding rows write, and so does the last output
        self.slots = lane.buffer((sizes.slots + 1, tokens, config.width), dtype)
        self.outputs = lane.buffer((sizes.outputs + 1, places, config.width), dtype)

    def run(self, chunk: Chunk, asked: Asked) -> Places:
        """Dispatches the programs of one chunk in turn; returns arrays still to come."""
        put, model = self.lane.put, self.lane.model
        planted = np.zeros((len(self.ids), 2), np.int32)
        planted[: len(chunk.planted)] = chunk.planted
        self.slots = plant(
            model,
            self.slots,
            self.ids,
            put(planted),
            put(np.int32(len(chunk.planted))),
            dtype=self.dtype,
        )
        for layers, *tiles in self.calls(chunk.tiles):
            self.slots = advance(self.config, layers, self.slots, self.view, *tiles)
        for layers, *tiles in self.calls(chunk.finals):
            self.outputs = finish(
                self.config, layers, self.slots, self.view, self.reads, self.outputs, *tiles
            )
        return read(model, self.outputs, *put(asked))

    def calls(self, tiles: Tiles) -> Iterator[tuple[Layer, Tiles, jax.Array, jax.Array]]:
        """Yields the weights, tiles, first and last of each call of a program."""
        for start in range(0, len(tiles.layer), CALL):
            some = Tiles(*(column[start : start + CALL] for column in tiles))
            count = len(some.layer)
            fixed = self.lane.put(Tiles(*(lengthen(column, CALL) for column in some)))
            if self.lane.layers is None:
                yield self.lane.model.layers, fixed, *self.lane.put((np.int32(0), np.int32(count)))
                continue
            for layer, first, last in some.runs():
                weights = self.lane.layers[layer]
                yield weights, fixed, *self.lane.put((np.int32(first), np.int32(last)))


def enlarge(values: np.ndarray, rows: int) -> np.ndarray:
    """Repeats the first row at the end, up to so many rows."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])


def lengthen(values: np.ndarray, rows: int) -> np.ndarray:
    """Pads [n, ...] to so many rows."""
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
