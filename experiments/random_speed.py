"""The speed of `run_paths` on a model with random weights, where no weights can be downloaded.

`python -m experiments.random_speed --model llama-3.2-3b --dtype bfloat16` evaluates random paths of
questions of random tokens on the device at hand, and some of them by `run_path`, one by one. The
programs take turns, and the median round is shown.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from cola_jax import Metrics, run_path, run_paths
from cola_jax.path import random_paths
from cola_jax.prompts import Prompts
from experiments.shapes import SHAPES, random_model

Program = tuple[Callable[[], None], int]  # with its number of evaluations, or of rows


@dataclasses.dataclass(frozen=True)
class RandomSpeed:
    """Measure evaluations a second of a model with random weights."""

    model: str = "smollm2-135m"
    """Shape of the model, one of `experiments.shapes`."""
    dtype: str = "float32"
    """Dtype of weights and activations."""
    questions: int = 16
    """Number of questions."""
    paths: int = 16
    """Number of random paths of each question."""
    tokens: int = 96
    """Tokens of a question."""
    few: int = 4
    """Number of paths that `run_path` runs."""
    rounds: int = 3
    """Number of timed rounds."""


def time_in_turns(programs: Mapping[str, Program], rounds: int) -> dict[str, list[float]]:
    """Run every program once, and then all of them in each round; return their seconds.

    Programs of a round are compared, so that a machine that slows down slows down all of them.
    """
    for run, _ in programs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (run, _) in programs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main(settings: RandomSpeed) -> None:
    config = SHAPES[settings.model]
    model, random = random_model(config, settings.dtype), np.random.default_rng(0)
    ids = random.integers(config.vocab_size, size=(settings.questions, settings.tokens))
    read = np.full((settings.questions, 1), settings.tokens - 1)
    prompts = Prompts.plain(ids).replace(read=read, targets=ids[:, :1])
    paths = random_paths(config.num_layers, settings.paths, seed=0)
    metrics, few = Metrics(), paths[: settings.few]

    def fast() -> None:
        run_paths(model, prompts, paths, dtype=settings.dtype, metrics=metrics)

    def one_by_one() -> None:
        for path in few:
            jax.block_until_ready(run_path(model, prompts, path))

    programs: dict[str, Program] = {
        "run_paths": (fast, settings.questions * len(paths)),
        "run_path": (one_by_one, settings.questions * len(few)),
    }
    timed = time_in_turns(programs, settings.rounds)
    seconds = {
        name: [each / count for each in timed[name]] for name, (_, count) in programs.items()
    }
    print(f"{jax.devices()[0].device_kind}, {settings.model}, {jnp.dtype(settings.dtype).name}")
    for name, each in seconds.items():
        print(f"{name}: {1 / statistics.median(each):,.1f} evaluations/s")
    ratio = statistics.median(map(np.divide, seconds["run_path"], seconds["run_paths"]))
    print(f"ratio {ratio:.2f}; prefix sharing {metrics.report()['prefix_sharing'] or 1:.2f}x")


if __name__ == "__main__":
    main(tyro.cli(RandomSpeed, description=__doc__))
