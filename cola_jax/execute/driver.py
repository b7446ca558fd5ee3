"""A driver: the prompts of a batch on a worker, and the dispatch of the tiles that run them."""

import jax
import numpy as np

from cola_jax.execute.forward import Context, Launch, embed_prompts, forward, view_of
from cola_jax.execute.kv_cache import KVBlocks
from cola_jax.execute.plan import Chunk, Tiles, pad_rows
from cola_jax.execute.worker import Worker
from cola_jax.prompts import Prompts


class Driver:
    """The prompts of a batch on its worker, and the slots of their hidden states."""

    def __init__(self, worker: Worker, prompts: Prompts, read: np.ndarray, slots: int):
        """Takes prompts [B, T], the positions read by the last layer [B, Q], and S."""
        self.worker = worker
        self.ids, self.read = worker.put((prompts.ids, read))
        self.views = view_of(worker.config, worker.put(prompts))
        # the slot after the last one takes what padding rows write
        shape = (slots + 1, prompts.ids.shape[1], worker.config.width)
        self.slots = worker.buffer(shape, worker.dtype, split=2)

    def run(
        self,
        chunk: Chunk,
        outputs: jax.Array,
        cache: KVBlocks | None = None,
        prefix: KVBlocks | None = None,
    ) -> tuple[jax.Array, KVBlocks | None]:
        """Dispatches a chunk; returns the outputs of the last layers, and the cache.

        `prefix` has the keys and values of what all prompts begin with, and these continue.
        """
        cache = self.fill(chunk.embedded, chunk.tiles, cache, prefix)
        for launch in self.worker.launches(chunk.last):
            outputs, cache = self.last(launch, outputs, cache, prefix)
        return outputs, cache

    def fill(
        self,
        embedded: np.ndarray,
        tiles: Tiles,
        cache: KVBlocks | None = None,
        prefix: KVBlocks | None = None,
    ) -> KVBlocks | None:
        """Dispatches embeddings and tiles, which fill slots; returns the cache."""
        worker = self.worker
        pairs = pad_rows(embedded.astype(np.int32), len(self.ids))
        args = worker.put((pairs, np.int32(len(embedded))))
        self.slots = embed_prompts(worker.model, self.slots, self.ids, *args, dtype=worker.dtype)
        for launch in worker.launches(tiles):
            cache = self.inner(launch, cache, prefix)
        return cache

    def inner(
        self, launch: Launch, cache: KVBlocks | None, prefix: KVBlocks | None = None
    ) -> KVBlocks | None:
        """Dispatches tiles of layers that are not the last of their paths."""
        worker, context = self.worker, Context(self.views, prefix=prefix)
        self.slots, cache = forward(
            worker.config, launch, self.slots, cache, context, kernel=worker.kernel
        )
        return cache

    def last(
        self,
        launch: Launch,
        outputs: jax.Array,
        cache: KVBlocks | None,
        prefix: KVBlocks | None = None,
    ) -> tuple[jax.Array, KVBlocks | None]:
        """Dispatches tiles of last layers."""
        worker = self.worker
        context = Context(self.views, source=self.slots, read=self.read, prefix=prefix)
        return forward(worker.config, launch, outputs, cache, context, kernel=worker.kernel)

    def no_tiles(
        self, rows: int, cache: KVBlocks | None = None, prefix: KVBlocks | None = None
    ) -> Launch:
        """Makes a call that runs no tiles, with which programs are compiled."""
        none = np.zeros((1, rows), np.int32)
        tiles = Tiles(none[:, 0], none, none, none)
        if cache is not None:
            tiles = tiles._replace(block=none)
        if prefix is not None:
            tiles = tiles._replace(prompt_block=none)
        (launch,) = self.worker.launches(tiles)
        zero = self.worker.put(np.int32(0))
        return launch._replace(first=zero, end=zero)

    def close(self) -> None:
        """Gives the slots back to the worker."""
        self.worker.give_back(self.slots)


def empty_chunk(rows: int) -> Chunk:
    """Makes a chunk of no tiles of R rows."""
    none = np.zeros((0, rows), np.int32)
    empty = Tiles(none[:, 0], none, none, none)
    return Chunk(np.zeros((0, 2), np.int32), empty, empty, np.zeros(0, np.int64))


def enlarge(values: np.ndarray, rows: int) -> np.ndarray:
    """Repeats the first row at the end, up to `rows` rows."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])
