"""What is timed: a wave of random paths, and one layer alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.benchmark.timing import Contender
from cola_jax.config import ModelConfig
from cola_jax.execute.device import calls
from cola_jax.execute.engine import Engine
from cola_jax.execute.schedule import Trie
from cola_jax.model import View, block, project, view
from cola_jax.params import Layer, Model, layer_at
from cola_jax.path import pad_path
from cola_jax.prompts import Prompts


class Wave:
    """One wave of paths, run from nothing each time."""

    def __init__(self, engine: Engine, prompts: Prompts, paths: list[list[tuple[int, ...]]]):
        longest = max(len(path) for row in paths for path in row)
        self.engine = engine
        self.paths = np.array([[pad_path(path, longest) for path in row] for row in paths])
        self.batch = engine.batch(prompts, self.paths.shape[1])
        self.rows = self.batch.sizes.rows
        (self.chunk, *_), self.cost = self.forget().plan(self.all_rows())
        self.layers = self.cost.unique
        self.forget()

    def forget(self) -> Trie:
        """Drops all states, so that the next wave computes everything."""
        sizes = self.batch.sizes
        self.batch.trie = Trie(sizes.slots, sizes.rows, sizes.outputs)
        return self.batch.trie

    def all_rows(self) -> np.ndarray:
        """Returns the question and the layers of every path, as a plan takes them."""
        b, c = np.indices(self.paths.shape[:2]).reshape(2, -1)
        return np.concatenate([b[:, None], self.paths[b, c]], axis=1)

    def run(self) -> None:
        self.forget()
        _, futures = self.batch.submit(self.paths)
        for future in futures:
            future.result()

    def tiles(self) -> jax.Array:
        """Runs the tiles of the first chunk, without the last layers and the reading."""
        device = self.batch.device
        assert device is not None
        for call in calls(device.lane, self.chunk.tiles):
            device.advance(*call)
        return device.slots

    def contenders(self) -> list[Contender]:
        """The whole wave, its work in evaluations, and its tiles, theirs in layers run."""
        return [
            Contender("engine", self.run, self.paths.shape[0] * self.paths.shape[1]),
            Contender("tiles", self.tiles, self.layers),
        ]


def one_layer(model: Model, tokens: int, rows: int) -> list[Contender]:
    """A jitted block alone, on one state and on a tile, and its matrix products alone."""
    config = model.config
    here = view(config, Prompts.plain(np.zeros((1, tokens), np.int32)))
    # arrays of their own, and another layer each time, as paths need them
    layers = [jax.tree.map(jnp.array, layer_at(config, model.layers, i)) for i in range(4)]

    @jax.jit
    def apply(layer: Layer, h: jax.Array, here: View):
        return block(config, layer, h, here)

    @jax.jit
    def products(layer: Layer, x: jax.Array):
        q = project("btd,dnh->btnh", x, layer.q, None)
        k, v = (project("btd,dkh->btkh", x, w, None) for w in (layer.k, layer.v))
        gate, up = (project("btd,df->btf", x, w, None) for w in (layer.gate, layer.up))
        down = project("btf,fd->btd", gate, layer.down, None)
        return k, v, up, down, project("btnh,nhd->btd", q, layer.o, None)

    def contender(name: str, run: Callable[[Layer, jax.Array], Any], rows: int) -> Contender:
        h = jnp.ones((rows, tokens, config.width), model.embedding.dtype)
        times = 8

        def turn():
            return [run(layers[i % 4], h) for i in range(times)]

        return Contender(name, turn, times * rows)

    wide = view(config, Prompts.plain(np.zeros((rows, tokens), np.int32)))
    made = [
        contender("block", lambda layer, h: apply(layer, h, here), 1),
        contender("products", products, 1),
    ]
    if rows > 1:
        made.append(contender("block of a tile", lambda layer, h: apply(layer, h, wide), rows))
    return made


def questions(config: ModelConfig, count: int, tokens: int, reads: int) -> Prompts:
    """Draws questions of random tokens, read at their last places."""
    generator = np.random.default_rng(0)
    reads = min(reads, tokens)
    places = np.tile(np.arange(tokens - reads, tokens, dtype=np.int32), (count, 1))
    return Prompts(
        ids=generator.integers(0, config.vocab_size, (count, tokens), np.int32),
        positions=np.tile(np.arange(tokens, dtype=np.int32), (count, 1)),
        branch=np.zeros((count, tokens), np.int32),
        read=places,
        targets=generator.integers(0, config.vocab_size, (count, reads), np.int32),
    )
