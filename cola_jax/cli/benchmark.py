"""`cola benchmark`: the speed of a search, and the time of each layer, on this machine."""

import dataclasses
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
    log_devices,
    open_session,
    values_of,
)
from cola_jax.cli.prompts import TaskCommand
from cola_jax.cli.results import print_results
from cola_jax.engine.devices import Devices, choose_dtype
from cola_jax.errors import InputError
from cola_jax.files import check_file
from cola_jax.layer_costs import LAYER, PARTS
from cola_jax.progress import log
from cola_jax.strategies.rules import DEFAULT, PRESETS, Settings
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.runs.estimates import Estimate
    from cola_jax.runs.results import Results
    from cola_jax.runs.session import Session

LEAVES = 16  # of a wave, the default of `cola search`
TIMED = 32  # questions on which layers are timed
COSTS = "layer_costs.json"
SPEED = "evaluations per second"  # names of estimates
TOKENS = "tokens of the longest question"


@dataclasses.dataclass(frozen=True)
class Benchmark(TaskCommand):
    """Measure the speed of a search, or the time of each layer, on this machine."""

    model: Model
    task: TaskChoice
    out: Annotated[Path | None, arg(name="output", aliases=["-o"])] = None
    """JSON file for all measurements; layer_costs.json by default with --layers."""
    layers: bool = False
    """Time each layer on the task's prompts instead, and its attention and its MLP alone, for
    --layer-costs of other commands."""
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
        from cola_jax.runs.results import write_results

        for name in ("rounds", "simulations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        out = Path(COSTS) if self.layers and self.out is None else self.out
        if out is not None:
            check_file(out)
        log_devices()
        results = self.time_layers() if self.layers else self.measure()
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_results(results, out)
            log.info("written to %s", out)
        print_results(results, as_json=self.json, whole=True)

    def open(self, devices: Devices) -> "Session":
        """Open the session of the task."""
        if self.task.measures_in_several:
            raise InputError("a benchmark asks each question in one prompt: leave out --prompts.")
        run = RunFlags(dtype=choose_dtype(self.dtype, "bfloat16"), devices=devices)
        return open_session(self.model, self.task.prepare, run, {"task": self.task.task})

    def time_layers(self) -> "Results":
        """Time layers and their parts on the first questions, in milliseconds a question."""
        import numpy as np

        from cola_jax.execute.layer_times import time_layers
        from cola_jax.runs.estimates import Estimate
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
        of_layers = unit * np.median(times.layers, axis=0)
        of_parts = unit * np.median(times.parts, axis=0)
        rows = {}
        for i, time in enumerate(of_layers):
            rows[LAYER.format(i)] = time
            rows |= {name.format(i): of_parts[i, part] for part, name in enumerate(PARTS)}
        rows |= {"sum of layers": of_layers.sum(), "whole path": unit * np.median(times.path)}
        estimates = [
            Estimate("time of a question", group, float(time), "ms", n=len(encoded))
            for group, time in rows.items()
        ]
        tokens = max(each.num_tokens for each in encoded)
        estimates.append(Estimate.count(TOKENS, tokens))
        return self.results(session, estimates, len(encoded))

    def measure(self) -> "Results":
        """Search the task several times."""
        from cola_jax.runs.estimates import Estimate

        session = self.open(self.devices)
        settings = Settings(PRESETS[DEFAULT], self.simulations, LEAVES, seed=0)
        rounds = []
        with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
            for i in range(1 + self.rounds):
                rounds.append(session.search(f"{folder}/{i}", settings).metrics.report())
        speeds = [metrics["evaluations_per_second"] for metrics in rounds[1:]]
        last = rounds[-1]
        estimates = [
            Estimate.count("evaluations", last["evaluations"]),
            Estimate(SPEED, value=statistics.median(speeds), unit="mean", n=self.rounds),
            Estimate(f"{SPEED}, least", value=min(speeds), unit="mean"),
            Estimate(f"{SPEED}, most", value=max(speeds), unit="mean"),
            Estimate("prefix sharing", value=last["prefix_sharing"] or 1.0, unit="times"),
            Estimate.count(TOKENS, max(each.num_tokens for each in session.asked.sample)),
        ]
        return self.results(session, estimates, len(session.asked), rounds=rounds[1:])

    def results(
        self, session: "Session", estimates: "list[Estimate]", questions: int, **facts: Any
    ) -> "Results":
        """Add the facts of the command and of the machine to what was measured."""
        from cola_jax.runs.results import Results
        from cola_jax.runs.session import facts_of

        recorded = {"command": "benchmark", "questions": questions, "flags": values_of(self)}
        of_session = facts_of(session, **recorded)
        return Results(estimates, of_session.to_json() | {"done": questions} | facts)
