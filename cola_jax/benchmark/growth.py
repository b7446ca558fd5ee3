"""How a wave's cost grows with its paths and questions, their tokens, and the model's depth."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cola_jax.benchmark.wave import Wave, questions
from cola_jax.edits import random_paths
from cola_jax.execute.compilation import compilations
from cola_jax.execute.engine import Engine
from cola_jax.params import Model
from cola_jax.path import identity

Tell = Callable[[str], None]


def grow(model: Model, reads: int, limit: float, tell: Tell) -> Iterator[dict[str, Any]]:
    """Yields evaluations per second while one quantity grows and the others stay.

    A row of points ends where the next would take longer than the limit, going by the last.
    """
    layers = model.config.num_layers
    base = {"paths": 16, "questions": 1, "tokens": 64, "depth": layers}
    rising = {
        "paths": [1, 4, 16, 64, 256, 1024],
        "questions": [1, 4, 16, 64, 256],
        "tokens": [32, 64, 128, 256, 512, 1024],
        # fewer than four layers have too few different paths
        "depth": sorted({layers, *(d for d in (layers // 4, layers // 2) if d > 3)}),
    }
    for name, values in rising.items():
        seconds = 0.0
        for number, value in enumerate(values):
            if number and seconds * value / values[number - 1] > limit:
                tell(f"growth in {name} ends at {values[number - 1]}: more would take too long")
                break
            point = base | ({"paths": 4} if name == "questions" else {}) | {name: value}
            tell(f"growth: {point}")
            found = measure_point(model, point, reads)
            seconds = found["seconds"]
            yield {"grows": name, **point, **found}


def measure_point(model: Model, point: dict[str, int], reads: int) -> dict[str, Any]:
    """Times one wave, compiled before, of so many paths, questions, tokens and layers."""
    config = model.config
    if point["depth"] < config.num_layers:
        model = shallow(model, point["depth"])
    count = point["paths"]
    drawn = random_paths(model.config.num_layers, count, 2) if count > 1 else []
    drawn = drawn or [identity(model.config.num_layers)]
    prompts = questions(config, point["questions"], point["tokens"], reads)
    with Engine(model) as engine:
        before = compilations()
        wave = Wave(engine, prompts, [drawn] * point["questions"])
        compiled = compilations() - before
        begun = time.perf_counter()
        wave.run()
        seconds = time.perf_counter() - begun
        report = engine.report()
    return {
        "seconds": seconds,
        "evaluations_per_second": count * point["questions"] / seconds,
        "sharing": report["sharing"],
        "padding_share": report["padding_share"],
        "compilations": compiled.count,
    }


def shallow(model: Model, depth: int) -> Model:
    """Keeps the first layers of a model."""
    config = dataclasses.replace(
        model.config,
        num_layers=depth,
        layer_ropes=model.config.layer_ropes[:depth],
        windows=model.config.windows[:depth],
    )
    return model.replace(config=config, layers=jax.tree.map(lambda x: x[:depth], model.layers))
