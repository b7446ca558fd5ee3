"""`cola benchmark`."""

import dataclasses
import json
import statistics
import tempfile
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
LEAVES = 16  # of a wave, the default of `cola search`


@dataclasses.dataclass(frozen=True)
class Benchmark(Command):
    """Measure the speed of `run_paths` on this machine against simpler ways to run the paths; with
    --task the speed of a search."""

    model: Annotated[str, arg(aliases=["-m"])] = "smollm2-135m"
    """A model as every command takes it, or a named shape with random weights: smollm2-135m,
    llama-3.2-1b, llama-3.2-3b, llama-3-8b, qwen3-8b."""
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file for all measurements."""
    tokens: int = 96
    """Tokens of the question, T; without a task."""
    paths: Annotated[int, arg(metavar="N")] = 64
    """Number of random paths of 1 to 3 edits, C; without a task."""
    reads: int = 16
    """Positions at which the model is read, Q; without a task."""
    rounds: int = 5
    """Number of times each program is timed, in turns, or a search is repeated."""
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
        results = self.measure_search() if self.task.task else self.measure(self.load())
        self.write(results)
        if self.json:
            print_json(results)
        else:
            console.print(search_table(results) if self.task.task else ratio_table(results))

    def load(self) -> "Model":
        """Check the flags, and load or make the model on the devices of one copy."""
        from cola_jax import load
        from cola_jax.execute.benchmark import SHAPES, random_model

        self.check()
        mesh = self.devices.mesh(self.devices.data or 1)
        dtype = choose_dtype(self.dtype, "bfloat16")
        if self.model in SHAPES:
            return random_model(SHAPES[self.model], dtype, mesh)
        if not Path(self.model).exists() and (near := nearest(self.model, SHAPES)):
            raise InputError(f"{self.model} is not a model or a shape: did you mean {near}?")
        checkpoint_of(self.model, dtype)
        return load(self.model, dtype=dtype, mesh=mesh)

    def measure(self, model: "Model") -> dict[str, Any]:
        """Measure `run_paths`."""
        from cola_jax.execute.benchmark import benchmark

        return benchmark(
            model,
            tokens=self.tokens,
            paths=self.paths,
            reads=self.reads,
            rounds=self.rounds,
            memory_budget=self.devices.budget,
            tile_tokens=self.devices.tile_tokens,
        )

    def measure_search(self) -> dict[str, Any]:
        """Measure a search of a task; a first one compiles."""
        from cola_jax.execute.benchmark import measured_on

        session = self.prepare()
        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        rounds = []
        with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
            for i in range(1 + self.rounds):
                rounds.append(session.search(f"{folder}/{i}", settings).metrics.report())
        speeds = [metrics["evaluations_per_second"] for metrics in rounds[1:]]
        names = ("num_layers", "width", "vocab_size")
        return {
            "model": {name: getattr(session.config, name) for name in names},
            "dtype": session.settings["dtype"],
            "scorer": session.scorer.name,
            "questions": len(session.encoded),
            "tokens": max(encoded.num_tokens for encoded in session.encoded),
            "simulations": settings.simulations,
            "evaluations_per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
            "rounds": rounds[1:],
            "machine": measured_on(),
        }

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
        config = RunConfig(choose_dtype(self.dtype, "bfloat16"), devices=self.devices)
        return open_session(self.model, self.task.prepare, config)

    def check(self) -> None:
        """Check numbers and the file; InputError."""
        for name in ("tokens", "paths", "reads", "rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        if self.out is not None:
            check_file(self.out)
        log_devices()

    def write(self, results: dict[str, Any]) -> None:
        """Write the measurements with the flags that made them, if there is a file for them."""
        if self.out is not None:
            content = json.dumps({"command": values_of(self), **results}, indent=1)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.out, f"{content}\n".encode())


def search_table(results: dict[str, Any]) -> Table:
    """Show the speed of a search and its savings."""
    metrics = results["rounds"][-1]
    rows = {
        f"questions of up to {results['tokens']} tokens": f"{results['questions']}",
        "evaluations": f"{metrics['evaluations']:,}",
        "evaluations/s": f"{results['evaluations_per_second']:,.1f}  "
        f"({results['least']:,.1f} to {results['most']:,.1f})",
        "prefix sharing": f"{metrics['prefix_sharing'] or 1:.2f}x",
    }
    return table_of(results, rows)


def ratio_table(results: dict[str, Any]) -> Table:
    """Show the speed of `run_paths`, and the time of every baseline relative to it."""
    rows = {
        f"matmul of {results['matmul_size']}": f"{results['matmul_gflops']:,.0f} GFLOP/s",
        f"run_paths, {results['paths']} paths of one question, T = {results['tokens']}": (
            f"{results['evaluations_per_second']:,.1f} evaluations/s"
        ),
        "prefix sharing": f"{results['prefix_sharing']:.2f}x",
        "padding rows": f"{results['padding_share']:.1%}",
        "useful operations over matmul": f"{results['useful_over_matmul']:.2f}",
        "unique operations over matmul": f"{results['unique_over_matmul']:.2f}",
    }
    for name, ratio in results["over_run_paths"].items():
        rows[f"{name}, over run_paths"] = spread(ratio)
    return table_of(results, rows)


def table_of(results: dict[str, Any], rows: dict[str, str]) -> Table:
    """Make a table with the device and the date of the results as its title."""
    machine = results["machine"]
    table = Table(title=f"{machine['device']}, {machine['date'][:10]}", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    return table


def spread(ratio: dict[str, float]) -> str:
    """Write a ratio with its range over the rounds."""
    return f"{ratio['ratio']:.2f}  ({ratio['least']:.2f} to {ratio['most']:.2f})"
