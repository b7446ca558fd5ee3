"""A driver: the prompts of a batch on a worker, and the dispatch of the tiles that run them."""

from typing import Any

import jax
import numpy as np

from cola_jax.execute.attention import Mode
from cola_jax.execute.forward import embed_prompts, view_of
from cola_jax.execute.kv_cache import Cache, NoCache
from cola_jax.execute.plan import Chunk, Layout, Tiles
from cola_jax.execute.worker import Worker
from cola_jax.prompts import Prompts


class Driver:
    """The prompts of a batch on its worker, and the slots of their hidden states."""

    def __init__(
        self, worker: Worker, prompts: Prompts, read: np.ndarray, slots: int, layout: Layout
    ):
        """Take prompts [B, T], the positions read by the last layer [B, Q], and S."""
        self.worker, self.layout, self.padding_slot = worker, layout, slots
        self.ids, self.read = worker.put((prompts.ids, read))
        self.views = view_of(worker.config, worker.put(prompts))
        # the slot after the last one takes what padding rows write
        shape = (slots + 1, prompts.ids.shape[1], worker.config.width)
        self.slots = worker.buffer(shape, worker.dtype, split=2)

    def run(
        self,
        chunk: Chunk,
        outputs: jax.Array,
        cache: Cache = NoCache(),  # noqa: B008 - has no fields
        prefix: Cache | None = None,
    ) -> tuple[jax.Array, Any]:
        """Dispatch a chunk; returns the outputs of the last layers, and the cache.

        `prefix` has what layers keep of what all prompts begin with, and these continue.
        """
        cache = self.fill(chunk.embedded, chunk.tiles, cache, prefix)
        last = self.worker.load(chunk.last, self.layout)
        mode = self.mode(prefix, self.read)
        return self.worker.run(last, outputs, mode, cache, source=self.slots)

    def fill(
        self,
        embedded: np.ndarray,
        tiles: Tiles,
        cache: Cache = NoCache(),  # noqa: B008 - has no fields
        prefix: Cache | None = None,
    ) -> Any:
        """Dispatch embeddings and tiles, which fill slots; returns the cache."""
        worker = self.worker
        if len(embedded):
            pairs = np.full((len(self.ids), 2), [0, self.padding_slot], np.int32)
            pairs[: len(embedded)] = embedded
            self.slots = embed_prompts(
                worker.model, self.slots, self.ids, worker.put(pairs), dtype=worker.dtype
            )
        launches = worker.load(tiles, self.layout)
        self.slots, cache = worker.run(launches, self.slots, self.mode(prefix), cache)
        return cache

    def mode(self, prefix: Cache | None, read: jax.Array | None = None) -> Mode:
        """Return how tiles run."""
        return self.worker.kind.over_prompts(self.views, prefix, read, self.worker.kernel)

    def close(self) -> None:
        """Give the slots back to the worker."""
        self.worker.give_back(self.slots)


def enlarge(values: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the first row at the end, up to `rows` rows."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])
