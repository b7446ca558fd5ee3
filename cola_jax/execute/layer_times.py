"""The time of each layer, and of its parts, on a device, in the tiles and programs of paths."""

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
from cola_jax.steps import ATTENTION, MLP, Step, is_whole


class LayerTimes(NamedTuple):
    """Seconds that layers take for all questions together, in each of N rounds."""

    layers: Float[np.ndarray, "N L"]  # each alone
    parts: Float[np.ndarray, "N L 2"]  # the attention and the MLP of each alone
    path: Float[np.ndarray, " N"]  # all layers in order


def time_layers(
    model: Model, prompts: Prompts, rounds: int, **options: Unpack[WorkerOptions]
) -> LayerTimes:
    """Time the layers of a model and their parts on prompts [B, T], batched as for `run_paths`.

    A round runs each layer alone, then each part alone, and then all layers in order, so that
    another load on the machine hits them alike; one round before, which compiles, does not count.
    A prefix that all prompts share is attended to, but its own states are not run.
    """
    if prompts.read is None:
        last = (token_counts(prompts) - 1)[:, None]
        prompts = prompts.replace(read=last, targets=np.zeros_like(last))
    num_layers = model.config.num_layers
    layers = range(num_layers)
    parts = [Step(layer, part).id for layer in layers for part in (ATTENTION, MLP)]
    # the last layer of a path runs for the tokens that are read alone: it is one more here
    path = np.array([*layers, *parts, 0], np.int32)
    paths = np.tile(path, (len(prompts.ids), 1, 1))
    times = np.zeros((rounds, len(path)))

    def run(worker: Worker, questions: np.ndarray, workload: Workload) -> np.ndarray:
        batch = take(prompts, questions)
        with contextlib.closing(PathEvaluator(worker, batch, workload)) as evaluator:
            return time_batch(evaluator, paths[questions, 0], rounds)

    settings: dict[str, Any] = dict(options)
    progress = settings.pop("progress", None)
    workload = Workload(1, len(path))
    workers = make_workers(model, **settings)
    for _, batch_times in map_questions(workers, run, prompts, paths, workload, progress):
        times += batch_times
    of_parts = times[:, num_layers:-1].reshape(rounds, num_layers, 2)
    return LayerTimes(times[:, :num_layers], of_parts, times[:, -1])


def time_batch(evaluator: PathEvaluator, paths: np.ndarray, rounds: int) -> np.ndarray:
    """Return the seconds [N, P] of each step but the last, and of all whole layers, in a batch.

    All questions have the same path, of which `paths` [B, P] has a copy for each.
    """
    driver = evaluator.driver
    times = np.zeros((1 + rounds, paths.shape[1]))
    columns = {step: place for place, step in enumerate(paths[0, :-1].tolist())}
    rows = np.concatenate([np.arange(len(paths))[:, None], paths], axis=1)
    with driver.on_paths(paths) as blocks:
        for chunk in evaluator.trie.plan(rows, blocks)[0]:
            steps = by_step(chunk.tiles)
            end = int(is_whole(chunk.tiles.step).sum())  # of the whole layers, which come first
            layers = Tiles(*(x[:end] for x in chunk.tiles))
            whole, *alone = (driver.worker.load(x, driver.layout) for x in (layers, *steps))
            for row in times:
                embed_chunk(evaluator, chunk)
                for tiles, launches in zip(steps, alone, strict=True):
                    row[columns[int(tiles.step[0])]] += time_tiles(evaluator, launches)
                embed_chunk(evaluator, chunk)
                row[-1] += time_tiles(evaluator, whole)
    return times[1:]


def by_step(tiles: Tiles) -> list[Tiles]:
    """Cut tiles where the step changes."""
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
