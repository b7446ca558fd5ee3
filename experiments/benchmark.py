"""`cola benchmark` with more baselines, what a wave is made of, and how cost grows with it.

`python -m experiments.benchmark --torch --growth 90` takes the flags of `cola benchmark` as well.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tyro
from rich.table import Table
from tyro.conf import OmitArgPrefixes

from cola_jax.cli.benchmark import Benchmark, ratio_table, spread
from cola_jax.cli.verbosity import console
from cola_jax.execute.benchmark import FEW, Baselines, Paths, Program, Wave, random_prompts
from cola_jax.execute.metrics import compilations
from cola_jax.execute.worker import Workers
from cola_jax.params import Model
from cola_jax.path import identity, random_paths
from cola_jax.prompts import Prompts
from experiments.components import time_layer, time_planning, vmapped

GENERATED = (2, 10, 50)  # tokens that the peers generate for a path


@dataclasses.dataclass(frozen=True)
class FullBenchmark:
    """Measure the speed of `run_paths` on this machine, against JAX alone and transformers."""

    benchmark: OmitArgPrefixes[Benchmark] = dataclasses.field(default_factory=Benchmark)
    torch: bool = False
    """Compare with transformers, which needs torch."""
    growth: float = 0.0
    """Also measure how cost grows, with at most this many seconds per point; without a task."""

    def run(self) -> None:
        if self.benchmark.task.task:
            self.benchmark.run()
        else:
            self.run_paths()

    def run_paths(self) -> None:
        """Compare `run_paths` with everything else that runs random paths."""
        command = self.benchmark
        model = command.load()
        results = command.measure(model, baselines=more_baselines(model, torch=self.torch))
        worker = Workers(model, tile_tokens=command.devices.tile_tokens).workers[0]
        results["layer"] = time_layer(
            worker, command.tokens, command.paths, command.reads, command.rounds
        )
        results["planning"] = time_planning(model.config.num_layers)
        if self.growth:
            results["growth"] = list(grow(model, command.reads, self.growth))
        command.write(results, torch=self.torch, growth=self.growth)
        console.print(ratio_table(results))
        console.print(component_table(results))
        if self.growth:
            console.print(growth_table(results["growth"]))


def more_baselines(model: Model, *, torch: bool) -> Baselines:
    """Return what makes the baselines: `vmap`, and with torch a forward pass per path, or more."""

    def make(prompts: Prompts, paths: Paths) -> list[Program]:
        programs = [vmapped(model, prompts, paths[:FEW])]
        if torch:
            from experiments.torch_baselines import forward_baseline, generate_baseline

            ids = np.asarray(prompts.ids)
            programs.append(forward_baseline(theirs, ids, paths[:FEW]))
            programs += [generate_baseline(theirs, ids, paths[:2], n) for n in GENERATED]
        return programs

    theirs = None
    if torch:
        from experiments.torch_baselines import random_llama

        theirs = random_llama(model.config, str(model.embedding.dtype))
    return make


def component_table(results: dict[str, Any]) -> Table:
    """Show the time of a layer of a tile, and of the host's plan."""
    table = Table(title="what run_paths is made of", show_header=False)
    table.add_row("a layer of run_paths", f"{results['layer']['ms_layer']:.3f} ms")
    for name, ratio in results["layer"]["layer_over"].items():
        table.add_row(f"over a {name} alone", spread(ratio))
    for name, value in results["planning"]["ms"].items():
        table.add_row(f"plan of {results['planning']['paths']:,} paths, {name}", f"{value:.1f} ms")
    return table


def grow(model: Model, reads: int, limit: float) -> Iterator[dict[str, Any]]:
    """Yield evaluations per second as one quantity grows and the others are fixed.

    A quantity stops growing where its next point would exceed the limit, extrapolated from the
    last.
    """
    layers = model.config.num_layers
    base = {"paths": 16, "questions": 1, "tokens": 64, "depth": layers}
    growing = {
        "paths": [1, 4, 16, 64, 256, 1024],
        "questions": [1, 4, 16, 64, 256],
        "tokens": [32, 64, 128, 256, 512, 1024],
        # fewer than four layers have too few different paths
        "depth": sorted({layers, *(d for d in (layers // 4, layers // 2) if d > 3)}),
    }
    for name, values in growing.items():
        seconds = 0.0
        for number, value in enumerate(values):
            if number and seconds * value / values[number - 1] > limit:
                console.print(f"growth in {name} ends at {values[number - 1]}: time limit")
                break
            point = base | ({"paths": 4} if name == "questions" else {}) | {name: value}
            console.print(f"growth: {point}", soft_wrap=True)
            measured = measure_point(model, point, reads)
            seconds = measured["seconds"]
            yield {"grows": name, **point, **measured}


def measure_point(model: Model, point: dict[str, int], reads: int) -> dict[str, Any]:
    """Time one wave after compilation."""
    if point["depth"] < model.config.num_layers:
        model = first_layers(model, point["depth"])
    config, count = model.config, point["paths"]
    drawn = random_paths(config.num_layers, count, 2) if count > 1 else []
    drawn = drawn or [identity(config.num_layers)]
    prompts = random_prompts(config, point["questions"], point["tokens"], reads)
    before = compilations()
    workers = Workers(model)
    wave = Wave(workers.workers[0], prompts, [drawn] * point["questions"])
    wave.run()  # compiles
    compiled = compilations() - before
    begun = time.perf_counter()
    wave.run()
    seconds = time.perf_counter() - begun
    report = workers.metrics.report()
    return {
        "seconds": seconds,
        "evaluations_per_second": count * point["questions"] / seconds,
        "prefix_sharing": report["prefix_sharing"],
        "padding_share": report["padding_share"],
        "compilations": compiled.count,
    }


def first_layers(model: Model, depth: int) -> Model:
    """Keep the first layers of a model."""
    config = dataclasses.replace(
        model.config,
        num_layers=depth,
        layer_ropes=model.config.layer_ropes[:depth],
        windows=model.config.windows[:depth],
    )
    return model.replace(config=config, layers=jax.tree.map(lambda x: x[:depth], model.layers))


def growth_table(points: list[dict[str, Any]]) -> Table:
    """Show how cost grows."""
    names = ("grows", "paths", "questions", "tokens", "depth")
    table = Table(title="one wave, after compilation")
    for name in (*names, "evaluations/s", "seconds", "prefix sharing", "padding"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            *(str(point[name]) for name in names),
            f"{point['evaluations_per_second']:,.1f}",
            f"{point['seconds']:.2f}",
            f"{point['prefix_sharing']:.2f}x",
            f"{point['padding_share']:.1%}",
        )
    return table


if __name__ == "__main__":
    tyro.cli(FullBenchmark).run()
