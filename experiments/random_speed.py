"""The speed of `run_paths` on a model with random weights, where no weights can be downloaded.

`python -m experiments.random_speed --model llama-3.2-3b --dtype bfloat16` evaluates random paths of
questions of random tokens on the device at hand, and some of them by `run_path`, one by one. The
programs take turns, and the median round is shown.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from cola_jax import Metrics, run_path, run_paths
from cola_jax.path import random_paths
from cola_jax.prompts import Prompts
from experiments.shapes import SHAPES, random_model


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


def main(settings: RandomSpeed) -> None:
    config = SHAPES[settings.model]
    model, random = random_model(config, settings.dtype), np.random.default_rng(0)
    ids = random.integers(config.vocab_size, size=(settings.questions, settings.tokens))
    read = np.full((settings.questions, 1), settings.tokens - 1)
    prompts = Prompts.plain(ids).replace(read=read, targets=ids[:, :1])
    paths = random_paths(config.num_layers, settings.paths, seed=0)
    metrics = Metrics()

    def fast() -> float:
        run_paths(model, prompts, paths, dtype=settings.dtype, metrics=metrics)
        return settings.questions * settings.paths

    def one_by_one() -> float:
        for path in paths[: settings.few]:
            jax.block_until_ready(run_path(model, prompts, path))
        return settings.questions * settings.few

    seconds: dict[str, list[float]] = {"run_paths": [], "run_path": []}
    for number in range(1 + settings.rounds):
        for program in (fast, one_by_one):
            begun = time.perf_counter()
            evaluations = program()
            name = "run_paths" if program is fast else "run_path"
            if number:  # the first round compiles
                seconds[name].append((time.perf_counter() - begun) / evaluations)
    print(f"{jax.devices()[0].device_kind}, {settings.model}, {jnp.dtype(settings.dtype).name}")
    for name, each in seconds.items():
        print(f"{name}: {1 / statistics.median(each):,.1f} evaluations/s")
    ratio = statistics.median(map(np.divide, seconds["run_path"], seconds["run_paths"]))
    print(f"ratio {ratio:.2f}; prefix sharing {metrics.report()['prefix_sharing'] or 1:.2f}x")


if __name__ == "__main__":
    main(tyro.cli(RandomSpeed, description=__doc__))
