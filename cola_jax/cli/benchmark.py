"""`cola benchmark`: the speed of a search, and the time of each layer, on this machine."""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from cola_jax.cli.flags import (
    DeviceChoice,
    DtypeChoice,
    Model,
    RunFlags,
    TaskChoice,
    console,
    log_devices,
    open_session,
    values_of,
)
from cola_jax.cli.prompts import TaskCommand
from cola_jax.cli.report import print_json
from cola_jax.engine.devices import Devices, choose_dtype
from cola_jax.errors import InputError
from cola_jax.files import check_file, write_whole
from cola_jax.progress import log
from cola_jax.runs.machine import machine
from cola_jax.strategies.rules import DEFAULT, PRESETS, Settings
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.report.terminal import TerminalTable
    from cola_jax.runs.session import Session

LEAVES = 16  # of a wave, the default of `cola search`
TIMED = 32  # questions on which layers are timed
COSTS = "layer_costs.json"


@dataclasses.dataclass(frozen=True)
class Benchmark(TaskCommand):
    """Measure the speed of a search, or the time of each layer, on this machine."""

    model: Model
    task: TaskChoice
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file for all measurements; layer_costs.json by default with --layers."""
    layers: bool = False
    """Time each layer on the task's prompts instead, for --layer-costs of other commands."""
    rounds: int = 5
    """Number of searches, or runs of each layer, that are timed, after one that compiles."""
    simulations: int = 32
    """Evaluations per question, beyond the baseline, and again for each control."""
    dtype: DtypeChoice = None
    """Dtype of weights and activations; auto is float32 on a CPU, else bfloat16."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.model, [self.task]

    def run_task(self) -> None:
        for name in ("rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        out = Path(COSTS) if self.layers and self.out is None else self.out
        if out is not None:
            check_file(out)
        log_devices()
        measure = self.time_layers if self.layers else self.measure
        results = {"command": values_of(self), **measure(), "machine": machine()}
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, f"{json.dumps(results, indent=1)}\n".encode())
            log.info("written to %s", out)
        if self.json:
            print_json(results)
        else:
            console.print(layer_table(results) if self.layers else table_of(results))

    def open(self, devices: Devices) -> "Session":
        """Open the session of the task."""
        if self.task.measures_in_several:
            raise InputError("a benchmark asks each question in one prompt: leave out --prompts.")
        run = RunFlags(dtype=choose_dtype(self.dtype, "bfloat16"), devices=devices)
        return open_session(self.model, self.task.prepare, run)

    def time_layers(self) -> dict[str, Any]:
        """Time the layers on the first questions, in milliseconds a question."""
        import numpy as np

        from cola_jax.execute.layer_times import time_layers
        from cola_jax.scoring.scorer import prompts_of

        # copies of the model would slow each other down
        devices = dataclasses.replace(self.devices, data=self.devices.data or 1)
        session = self.open(devices)
        asked = session.asked.take(range(min(TIMED, len(session.asked))))
        encoded = asked.encode(session.model)
        times = time_layers(
            session.model.load(devices.mesh(len(encoded))),
            prompts_of(encoded),
            self.rounds,
            memory_budget=self.devices.budget,
            tile_tokens=self.devices.tile_tokens,
            progress=False,
        )
        unit = 1000 / len(encoded)
        return {
            "milliseconds": (unit * np.median(times.layers, axis=0)).tolist(),
            "path_milliseconds": unit * float(np.median(times.path)),
            "questions": len(encoded),
            "tokens": max(each.num_tokens for each in encoded),
            "dtype": session.model.dtype,
            "model": session.model.digest,
        }

    def measure(self) -> dict[str, Any]:
        """Search the task several times."""
        session = self.open(self.devices)
        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        rounds = []
        with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
            for i in range(1 + self.rounds):
                rounds.append(session.search(f"{folder}/{i}", settings).metrics.report())
        speeds = [metrics["evaluations_per_second"] for metrics in rounds[1:]]
        return {
            "scorer": session.asked.scorer.name,
            "questions": len(session.asked),
            "tokens": max(encoded.num_tokens for encoded in session.asked.sample),
            "evaluations_per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
            "rounds": rounds[1:],
        }


def table_of(results: dict[str, Any]) -> "TerminalTable":
    """Show the speed of a search and its savings."""
    device = results["machine"]["device"]
    date = results["machine"]["date"][:10]
    metrics = results["rounds"][-1]
    speed = results["evaluations_per_second"]
    spread = f"({results['least']:,.1f} to {results['most']:,.1f})"
    facts = {
        f"questions of up to {results['tokens']} tokens": f"{results['questions']}",
        "evaluations": f"{metrics['evaluations']:,}",
        "evaluations/s": f"{speed:,.1f} {spread}",
        "prefix sharing": f"{metrics['prefix_sharing'] or 1:.2f}x",
    }
    return facts_table(f"{device}, {date}", facts)


def layer_table(results: dict[str, Any]) -> "TerminalTable":
    """Show the time of each layer, and their sum beside that of a whole path."""
    device = results["machine"]["device"]
    date = results["machine"]["date"][:10]
    times = {f"layer {i}": time for i, time in enumerate(results["milliseconds"])}
    times |= {"sum of layers": sum(times.values()), "whole path": results["path_milliseconds"]}
    facts = {f"questions of up to {results['tokens']} tokens": f"{results['questions']}"}
    facts |= {name: f"{time:.3g} ms a question" for name, time in times.items()}
    return facts_table(f"{device}, {results['dtype']}, {date}", facts)


def facts_table(title: str, facts: dict[str, str]) -> "TerminalTable":
    """Make a table of names and values."""
    from cola_jax.report.terminal import TerminalTable
    from cola_jax.scoring.number_format import Row, Table

    rows = [Row(name, (value,)) for name, value in facts.items()]
    return TerminalTable(Table(rows, title, ("", "")))
