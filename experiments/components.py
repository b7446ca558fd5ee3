"""What `run_paths` is made of, timed alone: a layer of its tiles, and the host's plan."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.execute.benchmark import Paths, Program, Wave, random_prompts, time_in_turns
from cola_jax.execute.plan import Layout, TileShape
from cola_jax.execute.reference import path_readings
from cola_jax.execute.trie import Trie
from cola_jax.execute.worker import Worker
from cola_jax.model import View, block, project, view
from cola_jax.params import Layer, Model, layer_at
from cola_jax.path import pad_path, random_paths
from cola_jax.prompts import Prompts


def time_layer(worker: Worker, tokens: int, paths: int, reads: int, rounds: int) -> dict[str, Any]:
    """Times a layer of a tile against a block alone, and against its matrix products alone."""
    config = worker.config
    prompts = random_prompts(config, 1, tokens, reads)
    wave = Wave(worker, prompts, [random_paths(config.num_layers, paths, 0)])
    programs = [tiles_of(wave), *one_layer(worker.model, tokens, wave.evaluator.layout.rows)]
    timings = time_in_turns(programs, rounds)
    tiles = timings.pop("tiles")
    return {
        "ms_layer": 1e3 * tiles.median,
        **{f"ms_{name}": 1e3 * timing.median for name, timing in timings.items()},
        "layer_over": {name: tiles.over(timing) for name, timing in timings.items()},
    }


def tiles_of(wave: Wave) -> Program:
    """The tiles of a wave without last layers and readouts, per layer run."""
    b, c = np.indices(wave.paths.shape[:2]).reshape(2, -1)
    rows = np.concatenate([b[:, None], wave.paths[b, c]], axis=1)
    chunks, cost = wave.evaluator.new_trie().plan(rows)
    driver = wave.evaluator.driver

    def run() -> jax.Array:
        for chunk in chunks:
            driver.fill(chunk.embedded[:0], chunk.tiles)
        return driver.slots

    return Program("tiles", run, cost.unique)


def one_layer(model: Model, tokens: int, rows: int) -> list[Program]:
    """A jitted block alone, on one state and on a tile, and its matrix products alone."""
    config = model.config
    # copies of several layers in turn, since a path does not find the next layer in the cache
    layers = [jax.tree.map(jnp.array, layer_at(config, model.layers, i)) for i in range(4)]

    @jax.jit
    def apply(layer: Layer, h: jax.Array, here: View):
        return block(config, layer, h, here)

    @jax.jit
    def products(layer: Layer, x: jax.Array, here: View):
        q = project("btd,dnh->btnh", x, layer.q, None)
        k, v = (project("btd,dkh->btkh", x, w, None) for w in (layer.k, layer.v))
        gate, up = (project("btd,df->btf", x, w, None) for w in (layer.gate, layer.up))
        down = project("btf,fd->btd", gate, layer.down, None)
        return k, v, up, down, project("btnh,nhd->btd", q, layer.o, None)

    def program(name: str, run: Callable[[Layer, jax.Array, View], Any], rows: int) -> Program:
        h = jnp.ones((rows, tokens, config.width), model.embedding.dtype)
        here, times = view(config, Prompts.plain(np.zeros((rows, tokens), np.int32))), 8
        return Program(
            name, lambda: [run(layers[i % 4], h, here) for i in range(times)], times * rows
        )

    programs = [program("block", apply, 1), program("block's products", products, 1)]
    return programs if rows == 1 else [*programs, program("block of a tile", apply, rows)]


def vmapped(model: Model, prompts: Prompts, paths: Paths) -> Program:
    """`vmap` over `run_path`, which copies each layer's weights for every path."""
    longest = max(map(len, paths))
    padded = jnp.asarray(np.stack([pad_path(path, longest) for path in paths]))
    prompts = jax.tree.map(jnp.asarray, prompts)

    @jax.jit
    def run(model, prompts, padded):
        return jax.vmap(lambda path: path_readings(model, prompts, path))(padded)

    return Program("vmap of run_path", lambda: run(model, prompts, padded), len(paths))


def time_planning(num_layers: int, paths: int = 1024) -> dict[str, Any]:
    """Times the host's plan of many paths of 64 questions, in milliseconds: the best of five."""
    drawn = random_paths(num_layers, paths, 1)
    width = max(map(len, drawn))
    rows = np.array([[i % 64, *pad_path(path, width)] for i, path in enumerate(drawn)])
    times: dict[str, list[float]] = {}
    for size in (1, 8, 16) * 5:
        layout = Layout.of_shape(TileShape(size, 128), 64)
        trie, begun = Trie(1 << 15, layout, 1024), time.perf_counter()
        trie.plan(rows)
        times.setdefault(f"R={size}", []).append(1e3 * (time.perf_counter() - begun))
    best = {name: min(each) for name, each in times.items()}
    return {"paths": len(rows), "layers": num_layers, "ms": best}
