"""`cola benchmark`: the speed of paths, or of a search, on this machine."""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from tyro.conf import arg

from cola_jax.cli.flags import (
    DeviceChoice,
    Dtype,
    Model,
    Printing,
    TaskChoice,
    checkpoint_of,
    console,
    log_devices,
    open_session,
    values_of,
)
from cola_jax.cli.report import print_json
from cola_jax.errors import InputError
from cola_jax.files import check_file, write_whole
from cola_jax.runs.devices import Devices, choose_dtype, machine
from cola_jax.strategies.rules import DEFAULT, PRESETS, Settings
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.config import ModelConfig
    from cola_jax.prompts import Prompts

NO_TASK = TaskConfig("")
LEAVES = 16  # of a wave, the default of `cola search`
READS = 16  # positions at which the model is read
FEW = 8  # paths that `run_path` runs


@dataclasses.dataclass(frozen=True)
class Benchmark(Printing):
    """Measure the speed of `run_paths` on this machine against `run_path`, path by path; with
    --task the speed of a search."""

    model: Model
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file for all measurements."""
    tokens: int = 96
    """Random tokens of the question; without a task."""
    paths: Annotated[int, arg(metavar="N")] = 64
    """Number of random paths of 1 to 3 edits; without a task."""
    rounds: int = 5
    """Number of times each program is timed, in turns, or a search is repeated."""
    task: TaskChoice = NO_TASK
    simulations: int = 32
    """Evaluations per question of the search over a task, beyond the baseline, and again for each
    control."""
    dtype: Dtype = None
    """Dtype of weights and activations; auto is float32 on a CPU, else bfloat16."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)

    def run(self) -> None:
        for name in ("tokens", "paths", "rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        if self.out is not None:
            check_file(self.out)
        log_devices()
        measured = self.measure_search() if self.task.task else self.measure_paths()
        results = {"command": values_of(self), **measured, "machine": machine()}
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.out, f"{json.dumps(results, indent=1)}\n".encode())
        if self.json:
            print_json(results)
        else:
            console.print(table_of(results))

    def measure_paths(self) -> dict[str, Any]:
        """Measure `run_paths` and `run_path` on one question, on the devices of one copy."""
        from cola_jax import Metrics, load, run_paths
        from cola_jax.execute.reference import run_reference
        from cola_jax.path import random_paths

        mesh, dtype = self.devices.mesh(1), choose_dtype(self.dtype, "bfloat16")
        checkpoint_of(self.model, dtype)
        model = load(self.model, dtype=dtype, mesh=mesh)
        prompts = random_prompt(model.config, self.tokens)
        drawn, metrics = random_paths(model.config.num_layers, self.paths, 0), Metrics()
        options: Any = {"memory_budget": self.devices.budget, "progress": False}
        options |= {"tile_tokens": self.devices.tile_tokens, "metrics": metrics}
        few = drawn[:FEW]
        seconds = time_in_turns(
            {
                "run_paths": lambda: run_paths(model, prompts, [drawn], **options),
                "run_path": lambda: run_reference(model, prompts, [few]),
            },
            self.rounds,
        )
        pairs = zip(seconds["run_path"], seconds["run_paths"], strict=True)
        return {
            "tokens": self.tokens,
            "evaluations": len(drawn),
            **speed_of([len(drawn) / each for each in seconds["run_paths"]]),
            "prefix_sharing": metrics.report()["prefix_sharing"],
            "run_path_over_run_paths": [a / len(few) / (b / len(drawn)) for a, b in pairs],
            "seconds": seconds,
        }

    def measure_search(self) -> dict[str, Any]:
        """Measure a search of a task; a first one compiles."""
        from cola_jax.runs.session import RunConfig

        config = RunConfig(choose_dtype(self.dtype, "bfloat16"), devices=self.devices)
        session = open_session(self.model, self.task.prepare, config)
        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        rounds = []
        with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
            for i in range(1 + self.rounds):
                rounds.append(session.search(f"{folder}/{i}", settings).metrics.report())
        return {
            "scorer": session.scorer.name,
            "questions": len(session.encoded),
            "tokens": max(encoded.num_tokens for encoded in session.encoded),
            "evaluations": rounds[-1]["evaluations"],
            **speed_of([each["evaluations_per_second"] for each in rounds[1:]]),
            "prefix_sharing": rounds[-1]["prefix_sharing"],
            "rounds": rounds[1:],
        }


def random_prompt(config: "ModelConfig", tokens: int) -> "Prompts":
    """Draw a batch of one prompt of random tokens, read at its last positions."""
    import numpy as np

    from cola_jax.prompts import Prompts

    generator, reads = np.random.default_rng(0), min(READS, tokens)
    ids, targets = (
        generator.integers(0, config.vocab_size, (1, size), np.int32) for size in (tokens, reads)
    )
    read = np.arange(tokens - reads, tokens, dtype=np.int32)[None]
    return Prompts.plain(ids).replace(read=read, targets=targets)


def time_in_turns(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run every program once, and then all of them in each round; return their seconds.

    Programs of a round are compared, so that a machine that slows down slows down all of them.
    """
    import jax

    for run in programs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def speed_of(speeds: Sequence[float]) -> dict[str, float]:
    """Summarise the evaluations a second of each round."""
    return {
        "evaluations_per_second": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
    }


def table_of(results: dict[str, Any]) -> Table:
    """Show speed and savings, and how many times as long `run_path` takes."""
    device, date = results["machine"]["device"], results["machine"]["date"][:10]
    table = Table(title=f"{device}, {date}", show_header=False)
    questions = results.get("questions", 1)
    table.add_row(f"questions of up to {results['tokens']} tokens", f"{questions}")
    table.add_row("evaluations", f"{results['evaluations']:,}")
    speeds = (results[name] for name in ("evaluations_per_second", "least", "most"))
    table.add_row("evaluations/s", "{:,.1f}  ({:,.1f} to {:,.1f})".format(*speeds))
    table.add_row("prefix sharing", f"{results['prefix_sharing'] or 1:.2f}x")
    if times := results.get("run_path_over_run_paths"):
        ratio = f"{statistics.median(times):.2f}x  ({min(times):.2f} to {max(times):.2f})"
        table.add_row("time of run_path, path by path", ratio)
    return table
