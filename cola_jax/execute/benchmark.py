"""Benchmark of `run_paths` against simpler ways to run the same paths in JAX."""

import dataclasses
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cola_jax.config import ModelConfig, Rope
from cola_jax.execute.batches import Workload
from cola_jax.execute.reference import run_reference
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import Worker, Workers
from cola_jax.int8 import Int8, cast, float_dtype
from cola_jax.params import Model, assemble, shapes, sharding
from cola_jax.path import pad_path, random_paths
from cola_jax.prompts import Prompts, Readings

Paths = Sequence[tuple[int, ...]]
FEW = 8  # paths that `run_path` runs
MATMUL_SIZE = 2048


def llama(
    layers: int, width: int, heads: int, kv: int, mlp: int, vocab: int, **other: Any
) -> ModelConfig:
    """Make the config of a Llama of that shape."""
    return ModelConfig(
        vocab_size=vocab,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=other.pop("head_dim", width // heads),
        mlp_width=mlp,
        context=8192,
        norm_eps=1e-5,
        ropes=(Rope(500000.0),),
        layer_ropes=(0,) * layers,
        windows=(None,) * layers,
        tied=other.pop("tied", True),
        **other,
    )


SHAPES = {
    "smollm2-135m": llama(30, 576, 9, 3, 1536, 49152),
    "llama-3.2-1b": llama(16, 2048, 32, 8, 8192, 128256),
    "llama-3.2-3b": llama(28, 3072, 24, 8, 8192, 128256, head_dim=128),
    "llama-3-8b": llama(32, 4096, 32, 8, 14336, 128256, tied=False),
    "qwen3-8b": llama(36, 4096, 32, 8, 12288, 151936, head_dim=128, tied=False, head_norms=True),
}


def random_model(config: ModelConfig, dtype: str, mesh: Mesh | None = None) -> Model:
    """Make a model with small normal weights, each generated on the devices that hold it."""
    seed = jax.random.key(0, impl="rbg")  # the generator that compiles and runs fastest
    wide = float_dtype(dtype)

    def draw(name: str, shape: tuple[int, ...], number: int) -> jax.Array | Int8:
        place = sharding(name, shape, mesh)
        if name.endswith("norm"):
            return jnp.ones(shape, wide, device=place)
        make = jax.jit(
            lambda key: (0.02 * jax.random.normal(key, shape)).astype(wide), out_shardings=place
        )
        return cast(name, make(jax.random.fold_in(seed, number)), dtype, mesh)

    every = enumerate(shapes(config).items())
    return assemble(config, {name: draw(name, shape, i) for i, (name, shape) in every})


def layer_flops(config: ModelConfig, tokens: int) -> float:
    """Count the floating-point operations of a layer on a state: matmuls and attention."""
    heads = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    weights = config.width * (2 * heads + 2 * kv + 3 * config.mlp_width)
    return 2.0 * tokens * weights + 4.0 * tokens * tokens * heads


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to be timed, and the units of work of a call."""

    name: str
    run: Callable[[], Any]
    work: float | int = 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per unit of work in each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)

    def over(self, other: "Timing") -> dict[str, float]:
        """Return the ratio of the two times within each round: its median and range."""
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def time_in_turns(
    programs: Sequence[Program], rounds: int, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Run every program once unless they are warm already, then all of them in each round.

    Programs of a round are compared, so that a machine that slows down slows down all of them.
    """
    for program in programs if warm_up else ():
        jax.block_until_ready(program.run())
    seconds: dict[str, list[float]] = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            begun = time.perf_counter()
            jax.block_until_ready(program.run())
            seconds[program.name].append((time.perf_counter() - begun) / program.work)
    return {name: Timing(values) for name, values in seconds.items()}


def benchmark(
    model: Model,
    *,
    tokens: int = 96,
    paths: int = 64,
    reads: int = 16,
    rounds: int = 5,
    memory_budget: int | None = None,
    tile_tokens: int | None = None,
) -> dict[str, Any]:
    """Measure `run_paths` on a question and many random paths, against `run_path`.

    Args:
      model: with pretrained or random weights; the first place of its `data` axis is used.
      tokens, paths, reads: T, C and Q.
      rounds: number of times each program is timed, in turns.
      memory_budget, tile_tokens: as `run_paths`.

    Returns:
      Results for JSON: the machine, times per evaluation, ratios with their range over the rounds,
      shares of the matmul rate, and counts.
    """
    config = model.config
    prompts = random_prompts(config, 1, tokens, reads)
    drawn = random_paths(config.num_layers, paths, 0)
    workers = Workers(model, memory_budget=memory_budget, tile_tokens=tile_tokens)
    wave = Wave(workers.workers[0], prompts, [drawn])
    wave.run()
    cost = workers.metrics.cost
    slow = path_by_path(model, prompts, drawn[:FEW])
    programs = [matmul(str(model.embedding.dtype)), wave.program(), slow]
    timings = time_in_turns(programs, rounds)
    ours, rate = timings["run_paths"], 1 / timings["matmul"].median
    run, per_layer = cost.unique + cost.last, layer_flops(config, tokens)
    reading = paths * 2.0 * reads * config.width * config.vocab_size
    unique = cost.unique * per_layer + cost.last * layer_flops(config, reads) + reading
    return {
        "model": {"layers": config.num_layers, "width": config.width, "vocab": config.vocab_size},
        "tokens": tokens,
        "paths": paths,
        "rows": wave.evaluator.layout.rows,
        "slots": wave.evaluator.sizes.slots,
        "matmul_size": MATMUL_SIZE,
        "matmul_gflops": rate / 1e9,
        "evaluations_per_second": 1 / ours.median,
        "prefix_sharing": cost.useful / run,
        "padding_share": 1 - cost.tokens / cost.token_rows,
        # shares of the matmul rate
        "unique_over_matmul": unique / (paths * ours.median) / rate,
        "useful_over_matmul": (cost.useful * per_layer + reading) / (paths * ours.median) / rate,
        "over_run_paths": {slow.name: timings[slow.name].over(ours)},
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "metrics": workers.metrics.report(),
        "machine": measured_on(),
    }


class Wave:
    """A wave of paths, computed from the embeddings each time."""

    def __init__(self, worker: Worker, prompts: Prompts, paths: Sequence[Paths]):
        longest = max(len(path) for row in paths for path in row)
        self.paths = np.array([[pad_path(path, longest) for path in row] for row in paths])
        self.evaluator = PathEvaluator(worker, prompts, Workload(self.paths.shape[1], longest))

    def run(self) -> Readings:
        """Run the wave; no state of an earlier run is reused."""
        self.evaluator.trie = self.evaluator.new_trie()
        return self.evaluator(self.paths)

    def program(self) -> Program:
        """The wave, per evaluation."""
        return Program("run_paths", self.run, self.paths.shape[0] * self.paths.shape[1])


def matmul(dtype: str) -> Program:
    """Multiply square matrices, per floating-point operation: the rate that bounds all others."""
    size, times = MATMUL_SIZE, 8
    a = jnp.full((size, size), 1 / size, dtype)
    # several products per call, so that an accelerator's dispatch does not count
    run = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a, a))
    return Program("matmul", lambda: run(a), 2.0 * size**3 * times)


def path_by_path(model: Model, prompts: Prompts, paths: Paths) -> Program:
    """Baseline: `run_path` in a loop."""
    return Program(
        "run_path, path by path", lambda: run_reference(model, prompts, [paths]), len(paths)
    )


def random_prompts(config: ModelConfig, count: int, tokens: int, reads: int) -> Prompts:
    """Draw prompts of random tokens, read at their last positions."""
    generator = np.random.default_rng(0)
    reads = min(reads, tokens)
    read = np.tile(np.arange(tokens - reads, tokens, dtype=np.int32), (count, 1))
    return Prompts(
        ids=generator.integers(0, config.vocab_size, (count, tokens), np.int32),
        positions=np.tile(np.arange(tokens, dtype=np.int32), (count, 1)),
        branch=np.zeros((count, tokens), np.int32),
        read=read,
        targets=generator.integers(0, config.vocab_size, (count, reads), np.int32),
    )


def measured_on() -> dict[str, Any]:
    """Record the date, the device and the versions of a measurement."""
    device = jax.local_devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform} {device.device_kind}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("cola-jax", "jax", "jaxlib")},
    }
