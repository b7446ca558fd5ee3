"""The driver: runs planned chunks over the prompts of a batch on its worker."""

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
        self, chunk: Chunk, outputs: jax.Array, cache: KVBlocks | None = None
    ) -> tuple[jax.Array, KVBlocks | None]:
        """Dispatches a chunk; returns the outputs of the last layers, and the cache."""
        worker = self.worker
        embedded = pad_rows(chunk.embedded.astype(np.int32), len(self.ids))
        count = np.int32(len(chunk.embedded))
        self.slots = embed_prompts(
            worker.model, self.slots, self.ids, *worker.put((embedded, count)), dtype=worker.dtype
        )
        for launch in worker.launches(chunk.tiles):
            cache = self.inner(launch, cache)
        for launch in worker.launches(chunk.last):
            outputs, cache = self.last(launch, outputs, cache)
        return outputs, cache

    def inner(self, launch: Launch, cache: KVBlocks | None) -> KVBlocks | None:
        """Dispatches tiles of layers that are not the last of their paths."""
        context = Context(self.views)
        self.slots, cache = forward(self.worker.config, launch, self.slots, cache, context)
        return cache

    def last(
        self, launch: Launch, outputs: jax.Array, cache: KVBlocks | None
    ) -> tuple[jax.Array, KVBlocks | None]:
        """Dispatches tiles of last layers."""
        context = Context(self.views, source=self.slots, read=self.read)
        return forward(self.worker.config, launch, outputs, cache, context)

    def warm(self, rows: int, outputs: jax.Array) -> jax.Array:
        """Compiles what evaluates paths without a cache, by running it on no tiles."""
        none = np.zeros((1, rows), np.int32)
        (launch,) = self.worker.launches(Tiles(none[:, 0], none, none, none))
        zero = self.worker.put(np.int32(0))
        launch = launch._replace(first=zero, end=zero)
        self.inner(launch, None)
        return self.last(launch, outputs, None)[0]

    def close(self) -> None:
        """Gives the slots back to the worker."""
        self.worker.give_back(self.slots)
