"""`cola benchmark`: the speed of a search on this machine."""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import arg

from cola_jax.cli.flags import (
    DeviceChoice,
    Dtype,
    Model,
    Printing,
    TaskChoice,
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

LEAVES = 16  # of a wave, the default of `cola search`


@dataclasses.dataclass(frozen=True)
class Benchmark(Printing):
    """Measure the speed of a search on this machine."""

    model: Model
    task: TaskChoice
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file for all measurements."""
    rounds: int = 5
    """Number of searches that are timed, after one that compiles."""
    simulations: int = 32
    """Evaluations per question, beyond the baseline, and again for each control."""
    dtype: Dtype = None
    """Dtype of weights and activations; auto is float32 on a CPU, else bfloat16."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)

    def run(self) -> None:
        for name in ("rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        if self.out is not None:
            check_file(self.out)
        log_devices()
        results = {"command": values_of(self), **self.measure(), "machine": machine()}
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.out, f"{json.dumps(results, indent=1)}\n".encode())
        if self.json:
            print_json(results)
        else:
            console.print(table_of(results))

    def measure(self) -> dict[str, Any]:
        """Search the task several times."""
        from cola_jax.runs.session import RunConfig

        config = RunConfig(choose_dtype(self.dtype, "bfloat16"), devices=self.devices)
        if self.task.measures_in_several:
            raise InputError("a benchmark asks each question in one prompt: leave out --prompts.")
        session = open_session(self.model, self.task.prepare, config)
        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        rounds = []
        with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
            for i in range(1 + self.rounds):
                rounds.append(session.search(f"{folder}/{i}", settings).metrics.report())
        speeds = [metrics["evaluations_per_second"] for metrics in rounds[1:]]
        return {
            "scorer": session.scorer.name,
            "questions": len(session.encoded),
            "tokens": max(encoded.num_tokens for encoded in session.encoded),
            "evaluations_per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
            "rounds": rounds[1:],
        }


def table_of(results: dict[str, Any]) -> Table:
    """Show the speed of a search and its savings."""
    device, date = results["machine"]["device"], results["machine"]["date"][:10]
    metrics, speed = results["rounds"][-1], results["evaluations_per_second"]
    table = Table(title=f"{device}, {date}", show_header=False)
    table.add_row(f"questions of up to {results['tokens']} tokens", f"{results['questions']}")
    table.add_row("evaluations", f"{metrics['evaluations']:,}")
    spread = f"({results['least']:,.1f} to {results['most']:,.1f})"
    table.add_row("evaluations/s", f"{speed:,.1f}  {spread}")
    table.add_row("prefix sharing", f"{metrics['prefix_sharing'] or 1:.2f}x")
    return table
