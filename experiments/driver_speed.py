"""The batches a second that the driver of `--engine ray` hands out, and takes back with rows.

`python -m experiments.driver_speed --actors 40 --batches 50` starts actors that sleep instead of
evaluating, each with many batches at once, as stand-ins for 2,000 workers.
"""

import dataclasses
import shutil
import sys
import tempfile
import time
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import psutil
import ray
import tyro
from ray import cloudpickle

from cola_jax.execute.plan import Workload
from cola_jax.metrics import Metrics
from cola_jax.runs import ray as ray_module
from cola_jax.runs.actor import Facts
from cola_jax.runs.ray import RayEngine, RemoteWorker
from cola_jax.runs.run import Run
from cola_jax.runs.schema import EVALUATIONS, Part, encode_part


class SleepingBatch(NamedTuple):
    """Stands for a batch."""

    size: int
    content: bytes
    mark: str


class SleepingWorker:
    """An actor that sleeps for the time of a batch, and returns rows or nothing."""

    def __init__(self, slots: int, seconds: float, rows: int):
        self.slots, self.seconds, self.rows = slots, seconds, rows

    def facts(self, expected: Any) -> None:
        """Never called, as the spare actor does not start."""

    def load(self, place: Any) -> int:
        """Return the batches that run at once."""
        return self.slots

    def run(self, job: Any, batch: SleepingBatch) -> tuple[Any, dict[str, Any]]:
        """Sleep, and make the rows."""
        time.sleep(self.seconds)
        names = [str(i) for i in range(batch.size)] if self.rows else []
        evaluations = [
            {"question": name, "asked": "0" * 16, "path": list(range(28)), "length": 28}
            | {"verdict": True, "margin": 0.5, "answer": 1, "scores": [0.1, 0.2, 0.3, 0.4]}
            | {"outside": 0.0, "finite": True, "node": i, "wave": 1, "parent": 0, "edit": "skip 1"}
            | {"target": 1, "control": False, "reused": False}
            for name in names
            for i in range(self.rows)
        ]
        questions = [{"question": name, "evaluations": self.rows} for name in names]
        content = encode_part(EVALUATIONS, evaluations, batch.mark) if names else b""
        return Part(content, questions), {"evaluations": batch.size * self.rows}


@dataclasses.dataclass
class DriverSpeed:
    """Time the driver."""

    actors: int = 40
    """Processes."""
    batches: int = 50
    """Batches of each at once; together they stand for the workers."""
    seconds: float = 20.0
    """For which a batch sleeps."""
    rounds: int = 3
    """Batches of each worker."""
    questions: int = 64
    """Of a batch."""
    rows: int = 0
    """Evaluations of each question, whose rows return and are written."""


class SleepingEngine(RayEngine):
    """An engine of actors that sleep."""

    def __init__(self, settings: DriverSpeed):
        self.settings, self.resources = settings, {"CPU": 1}
        self.refused, self.starting, self.job, self.failed = [], {}, None, 0
        facts = (Facts(str(i), str(i), "cpu", "", 1) for i in range(settings.actors))
        self.workers = [RemoteWorker(self.new_actor(), each) for each in facts]

    def new_actor(self) -> Any:
        """Make an actor; one more than there are CPUs waits."""
        arguments = self.settings.batches, self.settings.seconds, self.settings.rows
        make = ray.remote(SleepingWorker).options(num_cpus=1, max_concurrency=self.settings.batches)
        return make.remote(*arguments)


def main(settings: DriverSpeed) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=settings.actors, include_dashboard=False, log_to_driver=False)
    ray_module.ModelPlace = SimpleNamespace(of=lambda handle: handle)  # nothing is loaded
    engine, process = SleepingEngine(settings), psutil.Process()
    ray.get([worker.actor.load.remote("") for worker in engine.workers])  # all have started
    count = settings.actors * settings.batches * settings.rounds
    batches = [(np.arange(settings.questions), Workload(0, 0))] * count
    handle, work = cast("tuple[Any, Any]", ("model", "sleep"))
    before, folder = process.memory_info().rss, tempfile.mkdtemp()
    begun, metrics = time.perf_counter(), Metrics()
    with Run(f"{folder}/run").open({}, {}) as run:
        batch: Any = SleepingBatch(settings.questions, bytes(1000 * settings.questions), run.mark)
        for _, part, host in engine.map(handle, work, batches, lambda *_: batch, metrics, print):
            if part.questions:
                run.write(part, host)
    seconds, workers = time.perf_counter() - begun, settings.actors * settings.batches
    least = settings.rounds * settings.seconds
    memory = (process.memory_info().rss - before) / workers / 1e3
    print(
        f"{workers} workers, {count} batches in {seconds:.1f} s, of which they sleep {least:.0f}: "
        f"{count / seconds:.0f} batches/s, {count * settings.questions / seconds:.0f} questions/s, "
        f"driver {process.cpu_times().user:.0f} CPU s, {memory:.0f} kB a worker"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(tyro.cli(DriverSpeed, description=__doc__))
