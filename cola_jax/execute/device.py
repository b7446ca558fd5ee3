"""What a batch has on its lane: buffers, and the calls that run a chunk on them."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cola_jax.execute.forward import Places, advance, finish, plant, read
from cola_jax.execute.memory import Sizes
from cola_jax.execute.plan import Chunk, Tiles
from cola_jax.execute.spots import Asked
from cola_jax.execute.worker import Lane
from cola_jax.model import view
from cola_jax.params import Layer
from cola_jax.prompts import Prompts

CALL = 1024  # tiles in one call of a program; longer plans make several
view_of_all = jax.jit(view, static_argnums=0)


class Device:
    """The arrays of a batch on a lane, and the calls that run a chunk on them."""

    def __init__(self, lane: Lane, prompts: Prompts, reads: np.ndarray, sizes: Sizes, dtype: Any):
        self.lane, self.rows, self.dtype = lane, sizes.rows, dtype
        config = self.config = lane.model.config
        tokens, places = prompts.ids.shape[1], reads.shape[1]
        self.ids, self.reads = lane.put(prompts.ids), lane.put(reads)
        self.view = view_of_all(config, lane.put(prompts))
        # the slot behind the last one takes what padding rows write, and so does the last output
        self.slots = lane.buffer((sizes.slots + 1, tokens, config.width), dtype, split=2)
        self.outputs = lane.buffer((sizes.outputs + 1, places, config.width), dtype, split=2)

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
        for call in calls(self.lane, chunk.tiles):
            self.advance(*call)
        for call in calls(self.lane, chunk.finals):
            self.finish(*call)
        return read(model, self.outputs, *put(asked))

    def advance(self, layers: Layer, *tiles: Any) -> None:
        self.slots = advance(self.config, layers, self.slots, self.view, *tiles)

    def finish(self, layers: Layer, *tiles: Any) -> None:
        self.outputs = finish(
            self.config, layers, self.slots, self.view, self.reads, self.outputs, *tiles
        )

    def warm(self, asked: Asked) -> None:
        """Compiles every program by running it on nothing."""
        none = np.zeros((1, self.rows), np.int32)
        (call,) = calls(self.lane, Tiles(none[:, 0], none, none, none))
        nothing = *call[:2], *self.lane.put((np.int32(0), np.int32(0)))
        self.advance(*nothing)
        self.finish(*nothing)
        empty = Tiles(*(column[:0] for column in (none[:, 0], none, none, none)))
        self.run(Chunk(np.zeros((0, 2), np.int32), empty, empty, np.zeros(0, np.int64)), asked)


def calls(lane: Lane, tiles: Tiles) -> Iterator[tuple[Layer, Tiles, jax.Array, jax.Array]]:
    """Yields the weights, tiles, first and last of each call of a program."""
    for start in range(0, len(tiles.layer), CALL):
        some = tiles.part(start, start + CALL)
        count = len(some.layer)
        fixed = lane.put(some.lengthened(CALL))
        if lane.layers is None:
            yield lane.model.layers, fixed, *lane.put((np.int32(0), np.int32(count)))
            continue
        for layer, first, last in some.runs():
            yield lane.layers[layer], fixed, *lane.put((np.int32(first), np.int32(last)))
