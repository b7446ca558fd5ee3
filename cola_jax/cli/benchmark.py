"""`cola benchmark`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from tyro.conf import arg

from cola_jax.cli.flags import (
    Command,
    DeviceChoice,
    Dtype,
    TaskChoice,
    check_one_task,
    checkpoint_of,
    open_session,
)
from cola_jax.cli.parser import values_of
from cola_jax.cli.report import print_json
from cola_jax.cli.verbosity import console, log_devices
from cola_jax.errors import InputError, nearest
from cola_jax.files import check_file, write_whole
from cola_jax.runs.devices import Devices, choose_dtype
from cola_jax.strategies.rules import DEFAULT, PRESETS, Settings
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.params import Model
    from cola_jax.runs.session import Session

NO_TASK = TaskConfig("")
LEAVES = 16  # of a wave, as `cola search` has them by default


@dataclasses.dataclass(frozen=True)
class Benchmark(Command):
    """Measure the speed of `run_paths` on this machine, against simpler ways to run the paths; with
    --task that of a search, against the same search without sharing of prompts."""

    model: Annotated[str, arg(aliases=["-m"])] = "smollm2-135m"
    """A model as every command takes it, or a named shape with random weights: smollm2-135m,
    llama-3.2-1b, llama-3.2-3b, llama-3-8b, qwen3-8b."""
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file to write all measurements to."""
    tokens: int = 96
    """Tokens of the question, T; without a task."""
    paths: Annotated[int, arg(metavar="N")] = 64
    """Number of random paths of 1 to 3 edits, C; without a task."""
    reads: int = 16
    """Positions at which the model is read, Q; without a task."""
    rounds: int = 5
    """Number of times each program is timed, in turns."""
    task: TaskChoice = NO_TASK
    simulations: int = 32
    """Evaluations per question of the search over a task, beyond the baseline, and again for each
    control."""
    dtype: Dtype = None
    """Dtype of weights and activations; auto is float32 on a CPU, else bfloat16."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)
    json: bool = False
    """Print all measurements as JSON."""

    def run(self) -> None:
        if self.task.task:
            results = self.measure_search(self.prepare())
        else:
            results = self.measure(self.load())
        self.write(results)
        if self.json:
            print_json(results)
        else:
            console.print(benchmark_table(results))

    def measure(self, model: "Model", **options: Any) -> dict[str, Any]:
        """Return all measurements; `options` are passed to `benchmark`."""
        from cola_jax.execute.benchmark import benchmark

        return benchmark(
            model,
            tokens=self.tokens,
            paths=self.paths,
            reads=self.reads,
            rounds=self.rounds,
            memory_budget=self.devices.budget,
            tile_tokens=self.devices.tile_tokens,
            **options,
        )

    def measure_search(self, session: "Session") -> dict[str, Any]:
        """Return the measurements of a search."""
        from cola_jax.runs.search_benchmark import benchmark_search

        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        return benchmark_search(session, settings, rounds=self.rounds)

    def load(self) -> "Model":
        """Check the flags, and load or make the model on the devices of one copy."""
        from cola_jax import load
        from cola_jax.execute.benchmark import SHAPES, random_model

        self.check()
        log_devices()
        mesh = self.devices.mesh(self.devices.data or 1)
        dtype = choose_dtype(self.dtype, "bfloat16")
        if self.model in SHAPES:
            return random_model(SHAPES[self.model], dtype, mesh)
        if not Path(self.model).exists() and (near := nearest(self.model, SHAPES)):
            raise InputError(f"{self.model} is not a model or a shape: did you mean {near}?")
        checkpoint_of(self.model, dtype)
        return load(self.model, dtype=dtype, mesh=mesh)

    def prepare(self) -> "Session":
        """Check the flags, and open a session of the task."""
        from cola_jax.execute.benchmark import SHAPES
        from cola_jax.runs.session import RunConfig

        self.check()
        check_one_task("benchmark", self.task)
        if self.model in SHAPES:
            raise InputError(
                f"{self.model} is a shape with random weights, which has no tokenizer for a task: "
                "give --model a checkpoint or a Hugging Face model."
            )
        log_devices()
        config = RunConfig(choose_dtype(self.dtype, "bfloat16"), devices=self.devices)
        return open_session(self.model, self.task.prepare, config)

    def check(self) -> None:
        """Check what takes no time to check; InputError."""
        for name in ("tokens", "paths", "reads", "rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        if self.out is not None:
            check_file(self.out)

    def write(self, results: dict[str, Any], **flags: Any) -> None:
        """Write the measurements with the flags that made them, if a file was given."""
        if self.out is not None:
            content = json.dumps({"command": values_of(self) | flags, **results}, indent=1)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.out, f"{content}\n".encode())


def benchmark_table(results: dict[str, Any]) -> Table:
    """Show the measurements of a search, or those of `run_paths`."""
    return search_table(results) if "over_search" in results else ratio_table(results)


def search_table(results: dict[str, Any]) -> Table:
    """Show the speed of a search and of its baselines, and how far their scores agree."""
    machine, shared = results["machine"], results["shared_tokens"]
    table = Table(
        title=f"{results['questions']} questions of up to {results['tokens']} tokens, "
        f"{shared} run once; {machine['device']}, {machine['date'][:10]}"
    )
    table.add_column("")
    for name in ("evaluations", "evaluations/s", "time over the search's", "largest difference"):
        table.add_column(name, justify="right")
    for name, speed in results["evaluations_per_second"].items():
        over, agreement = results["over_search"].get(name), results["agreement"].get(name)
        table.add_row(
            name,
            f"{results['evaluations'][name]:,}",
            f"{speed:,.1f}",
            "" if over is None else spread(over),
            "" if agreement is None else f"{agreement['difference']:.0e}",
        )
    return table


def ratio_table(results: dict[str, Any]) -> Table:
    """Show the speed of `run_paths`, and the time of every baseline relative to it."""
    machine = results["machine"]
    table = Table(title=f"{machine['device']}, {machine['date'][:10]}", show_header=False)
    shares = {
        f"matmul of {results['matmul_size']}": f"{results['matmul_gflops']:,.0f} GFLOP/s",
        f"run_paths, {results['paths']} paths of one question, T = {results['tokens']}": (
            f"{results['evaluations_per_second']:,.1f} evaluations/s"
        ),
        "prefix sharing": f"{results['prefix_sharing']:.2f}x",
        "padding rows": f"{results['padding_share']:.1%}",
        "useful operations over matmul": f"{results['useful_over_matmul']:.2f}",
        "unique operations over matmul": f"{results['unique_over_matmul']:.2f}",
    }
    shares |= {
        f"{name}, over run_paths": spread(ratio)
        for name, ratio in results["over_run_paths"].items()
    }
    for name, text in shares.items():
        table.add_row(name, text)
    return table


def spread(ratio: dict[str, float]) -> str:
    """Write a ratio with its range over the rounds."""
    return f"{ratio['ratio']:.2f}  ({ratio['least']:.2f} to {ratio['most']:.2f})"
