"""The time of each layer on a device, in the tiles and programs that run paths."""

import contextlib
import time
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np
from jaxtyping import Float

from cola_jax.execute.inputs import token_counts
from cola_jax.execute.plan import Chunk, Tiles, Workload, take
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import Launches, Worker, WorkerOptions, make_workers, map_questions
from cola_jax.params import Model
from cola_jax.prompts import Prompts


class LayerTimes(NamedTuple):
    """Seconds that layers take for all questions together, in each of N rounds."""

    layers: Float[np.ndarray, "N L"]  # each alone
    path: Float[np.ndarray, " N"]  # all in order


def time_layers(
    model: Model, prompts: Prompts, rounds: int, **options: Unpack[WorkerOptions]
) -> LayerTimes:
    """Time the layers of the identity path on prompts [B, T], batched as for `run_paths`.

    A round runs each layer alone and then all in order, so that another load on the machine hits
    them alike; one round before, which compiles, does not count. A prefix that all prompts share is
    attended to, but its own states are not run.
    """
    if prompts.read is None:
        last = (token_counts(prompts) - 1)[:, None]
        prompts = prompts.replace(read=last, targets=np.zeros_like(last))
    num_layers = model.config.num_layers
    # the last layer of a path runs for the tokens that are read alone: it is one more here
    path = np.array([*range(num_layers), 0], np.int32)
    paths = np.tile(path, (len(prompts.ids), 1, 1))
    times = np.zeros((rounds, num_layers + 1))

    def run(worker: Worker, questions: np.ndarray, workload: Workload) -> np.ndarray:
        batch = take(prompts, questions)
        with contextlib.closing(PathEvaluator(worker, batch, workload)) as evaluator:
            return time_batch(evaluator, paths[questions, 0], rounds)

    settings: dict[str, Any] = dict(options)
    progress = settings.pop("progress", None)
    workload = Workload(1, num_layers + 1)
    workers = make_workers(model, **settings)
    for _, batch_times in map_questions(workers, run, prompts, paths, workload, progress):
        times += batch_times
    return LayerTimes(times[:, :-1], times[:, -1])


def time_batch(evaluator: PathEvaluator, paths: np.ndarray, rounds: int) -> np.ndarray:
    """Return the seconds [N, L + 1] of each layer, and of all, on the paths [B, P] of a batch."""
    driver = evaluator.driver
    times = np.zeros((1 + rounds, paths.shape[1]))
    rows = np.concatenate([np.arange(len(paths))[:, None], paths], axis=1)
    with driver.on_paths(paths) as blocks:
        for chunk in evaluator.trie.plan(rows, blocks)[0]:
            parts = by_layer(chunk.tiles)
            whole, *alone = (driver.worker.load(x, driver.layout) for x in (chunk.tiles, *parts))
            for row in times:
                embed_chunk(evaluator, chunk)
                for part, launches in zip(parts, alone, strict=True):
                    row[part.step[0]] += time_tiles(evaluator, launches)
                embed_chunk(evaluator, chunk)
                row[-1] += time_tiles(evaluator, whole)
    return times[1:]


def by_layer(tiles: Tiles) -> list[Tiles]:
    """Cut tiles where the layer changes."""
    starts = [0, *(np.flatnonzero(np.diff(tiles.step)) + 1).tolist()]
    ends = [*starts[1:], len(tiles.table)]
    return [Tiles(*(x[start:end] for x in tiles)) for start, end in zip(starts, ends, strict=True)]


def embed_chunk(evaluator: PathEvaluator, chunk: Chunk) -> None:
    """Write the embedded prompts of a chunk to their slots, and run no tile."""
    no_tiles = Tiles(*(x[:0] for x in chunk.tiles))
    evaluator.driver.fill(chunk._replace(tiles=no_tiles), ())
    jax.block_until_ready(evaluator.driver.slots)


def time_tiles(evaluator: PathEvaluator, launches: Launches) -> float:
    """Run tiles; return the seconds until their states are there."""
    driver = evaluator.driver
    modes = driver.modes()
    start = time.perf_counter()
    driver.slots, _ = driver.worker.run(launches, driver.slots, modes)
    jax.block_until_ready(driver.slots)
    return time.perf_counter() - start
