"""The benchmark: the engine beside other ways to run the same paths, and how its cost grows."""

import datetime
import os
import platform
import time
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from cola_jax.benchmark import rivals
from cola_jax.benchmark.growth import Tell, grow
from cola_jax.benchmark.shapes import layer_flops, read_flops
from cola_jax.benchmark.timing import Timing, matmul, take_turns
from cola_jax.benchmark.wave import Wave, one_layer, questions
from cola_jax.config import ModelConfig
from cola_jax.edits import random_paths
from cola_jax.execute.engine import Engine
from cola_jax.execute.schedule import Trie
from cola_jax.params import Model
from cola_jax.path import pad_path

PATHS = 64  # the paths compared, of 1 to 3 edits
FEW = 8  # of them for contenders that take long
GENERATED = (2, 10, 50)  # tokens that the peers generate for a path


def benchmark(
    model: Model,
    *,
    tokens: int = 96,
    paths: int = PATHS,
    reads: int = 16,
    rounds: int = 5,
    memory_budget: int | None = None,
    rows: int | None = None,
    torch: bool = True,
    growth: float = 0.0,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Measures the engine on one question and many paths, beside other ways to run them.

    Args:
      model: of real or random weights.
      tokens, paths, reads: T, C and Q.
      rounds: how often everything is timed, in turns.
      memory_budget, rows: as `run_paths`.
      torch: compare with transformers, where torch is installed.
      growth: seconds that one point of the growth tables may take; none are made for 0.
      tell: called with a line before each part.

    Returns:
      what is written as JSON: the machine, times per evaluation and per layer, ratios with their
      range over the rounds, shares of the matmul rate, and counts.
    """
    config, dtype = model.config, str(model.embedding.dtype)
    prompts = questions(config, 1, tokens, reads)
    drawn = random_paths(config.num_layers, paths, 0)
    with Engine(model, memory_budget=memory_budget, rows=rows) as engine:
        use = Wave(engine, prompts, [drawn])
        contenders = [
            matmul(dtype),
            *use.contenders(),
            *one_layer(model, tokens, use.rows),
            rivals.one_by_one(model, prompts, drawn[:FEW]),
            rivals.vmapped(model, prompts, drawn[:FEW]),
        ]
        theirs = rivals.transformers_model(config, dtype, torch_device()) if torch else None
        if theirs is not None:
            ids = np.asarray(prompts.ids)
            contenders.append(rivals.forward(theirs, ids, drawn[:FEW]))
            contenders += [rivals.generate(theirs, ids, drawn[:2], n) for n in GENERATED]
        tell(f"timing {len(contenders)} programs in turns, {rounds} rounds")
        timings = take_turns(contenders, rounds)
        found = summarise(config, timings, use, tokens, reads)
    found |= {"machine": machine(), "planning": planning(config.num_layers)}
    if growth:
        found["growth"] = list(grow(model, reads, growth, tell))
    return found


def summarise(
    config: ModelConfig, timings: dict[str, Timing], use: Wave, tokens: int, reads: int
) -> dict[str, Any]:
    """Turns timings into ratios and shares."""
    cost, paths = use.cost, use.paths.shape[1]
    engine, rate = timings["engine"], 1 / timings["matmul 2048"].median
    per_layer = layer_flops(config, tokens)
    reading = paths * read_flops(config, reads)
    unique = cost.unique * per_layer + cost.finals * layer_flops(config, reads) + reading
    useful = cost.useful * per_layer + reading
    seconds = paths * engine.median
    return {
        "model": {"layers": config.num_layers, "width": config.width, "vocab": config.vocab_size},
        "tokens": tokens,
        "paths": paths,
        "rows": use.rows,
        "slots": use.batch.sizes.slots,
        "matmul_gflops": rate / 1e9,
        "evaluations_per_second": 1 / engine.median,
        "sharing": cost.useful / (cost.unique + cost.finals),
        "padding_share": 1 - (cost.unique + cost.finals) / cost.rows,
        "unique_over_matmul": unique / seconds / rate,
        "useful_over_matmul": useful / seconds / rate,
        # a layer of the engine beside a block alone, and beside its matrix products alone
        "ms_layer": 1e3 * timings["tiles"].median,
        "ms_block": 1e3 * timings["block"].median,
        "ms_products": 1e3 * timings["products"].median,
        "layer_over_block": timings["tiles"].over(timings["block"]),
        "layer_over_products": timings["tiles"].over(timings["products"]),
        "times": {name: timing.seconds for name, timing in timings.items()},
        "over_engine": {
            name: timing.over(engine) for name, timing in timings.items() if "path" in name
        },
        "engine": use.engine.report(),
    }


def planning(num_layers: int, paths: int = 1024) -> dict[str, float]:
    """Times the host's plan of many paths over 64 questions, the best of five, in milliseconds."""
    drawn = random_paths(num_layers, paths, 1)
    width = max(map(len, drawn))
    rows = np.array([[i % 64, *pad_path(path, width)] for i, path in enumerate(drawn)])
    found = {}
    for size in (1, 8, 16):
        times = []
        for _ in range(5):
            trie = Trie(1 << 15, size, 1024)
            begun = time.perf_counter()
            trie.plan(rows)
            times.append(time.perf_counter() - begun)
        found[f"R={size}"] = 1e3 * min(times)
    return {"paths": len(rows), "layers": num_layers, **found}


def torch_device() -> str:
    """Names the device that transformers runs on."""
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """Says where and with what this was measured."""
    device = jax.local_devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform} {device.device_kind}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("cola-jax", "jax", "jaxlib")},
    }
