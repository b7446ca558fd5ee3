"""What the driver of `--engine ray` costs: batches a second, and a start with many questions.

`python -m experiments.driver_speed batches --out FOLDER` starts actors that sleep instead of
evaluating, each with many batches at once, as stand-ins for hundreds of workers, and writes their
rows to storage of which every request takes 100 ms.

`python -m experiments.driver_speed start --out FOLDER --questions 100000` starts `cola evaluate` on
a node of this machine, and measures the seconds, CPU seconds and memory of the driver until the
first batch has begun.

Both need Linux.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import ray
import tyro
from ray import cloudpickle

from cola_jax.engine import ray as ray_module
from cola_jax.engine.actor import WorkerFacts
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.work import Batch, Work
from cola_jax.question import Question
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, RowLayout
from tests.cluster import bucket as buckets
from tests.cluster.machines import Material, end, machines, start_cola, until, write_questions

FEW = 48  # questions of a start whose cost is that of all starts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sleeping(Work):
    """Work that takes some seconds, and makes rows."""

    seconds: float
    rows: int  # of each question
    mark: str  # of the run

    def __call__(self, worker: Any, batch: Batch, keep: Any) -> Part:
        time.sleep(self.seconds)
        path = list(range(28))
        evaluations = [
            {"question": question.id, "asked": "0" * 16, "path": path, "length": 28}
            | {"verdict": True, "margin": 0.5, "answer": 1, "scores": [0.1, 0.2, 0.3, 0.4]}
            | {"outside": 0.0, "finite": True, "node": i, "wave": 1, "parent": 0, "edit": "skip 1"}
            | {"target": 1, "control": False, "reused": False}
            for question in batch.questions
            for i in range(self.rows)
        ]
        questions = [{"question": q.id, "evaluations": self.rows} for q in batch.questions]
        return Part(evaluations, questions).encode(RowLayout(self.mark))


class SleepingWorker:
    """An actor in place of a `RayWorker`, with many batches at once and no model."""

    slots = 1  # of each, which the driver sets

    def __init__(self):
        self.node = ray.get_runtime_context().get_node_id()

    def facts(self, *expected: Any) -> WorkerFacts:
        """Describe the machine."""
        return WorkerFacts(self.node, "host", "cpu", "cpu", 1)

    def load(self, place: Any) -> int:
        """Return the batches that run at once."""
        return self.slots

    def run(self, job: Any, batch: Batch) -> tuple[Part, dict[str, Any]]:
        """Do the work on a batch."""
        work: Any = ray.get(job.work)
        return work(None, batch, None), {"evaluations": len(batch.questions)}


@dataclasses.dataclass
class Batches:
    """Measure the batches a second that a driver hands out, and whose rows it writes."""

    out: Path
    """Folder of a tiny model."""
    actors: int = 5
    """Processes."""
    slots: int = 50
    """Batches of each at once; together they stand for the workers."""
    seconds: float = 1.0
    """For which a batch sleeps."""
    batches: int = 5000
    """Batches in all."""
    questions: int = 32
    """Of a batch."""
    rows: int = 12
    """Evaluations of each question."""
    delay: float = 0.1
    """Seconds that every request to storage takes."""

    def run(self) -> None:
        """Print what was handed out and written."""
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        SleepingWorker.slots, ray_module.RayWorker = self.slots, SleepingWorker
        model = ModelHandle(Material.make(self.out.absolute() / "material").model)
        with buckets.serve() as bucket:
            os.environ |= bucket.environment | buckets.KEYS
            ray.init("local", num_cpus=self.actors, include_dashboard=False, log_to_driver=False)
            engine, process = ray_module.RayEngine(resources={"CPU": 1}), psutil.Process()
            with Run(f"s3://{buckets.NAME}/run").open({}, {}) as run:
                encoder: Any = None  # it makes no prompts
                work = Sleeping(
                    model=model,
                    encoder=encoder,
                    seconds=self.seconds,
                    rows=self.rows,
                    mark=run.mark,
                )
                list(engine.map(work, self.made(self.actors * self.slots)))  # all have started
                bucket.set(delay=self.delay)
                begun, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
                for _, part, machine in engine.map(work, self.made(self.batches)):
                    run.write(part, machine)
                handed = time.perf_counter() - begun
            seconds = time.perf_counter() - begun
            cpu = sum(process.cpu_times()[:2]) - cpu
            written = sum(bucket.requests()[kind] for kind in ("PUT", "DELETE"))
        workers = self.actors * self.slots
        print(
            f"{workers} workers, {self.batches} batches in {handed:.1f} s: "
            f"{self.batches / handed:.0f} batches/s handed out, {self.batches / seconds:.0f} "
            f"written, {written} requests, driver {1000 * cpu / self.batches:.1f} CPU ms a batch"
        )

    def made(self, count: int) -> Iterator[Batch]:
        """Make batches of questions of their own."""
        size = self.questions
        for i in range(0, count * size, size):
            indices = np.arange(i, i + size)
            questions = [Question(f"q{j}", "?", ("x", "y"), 0) for j in range(i, i + size)]
            yield Batch(indices, questions)


@dataclasses.dataclass
class Start:
    """Measure a start with many questions, beside one with few."""

    out: Path
    """Folder of the questions and runs."""
    questions: int = 100_000
    """Questions of the run."""
    limit: float = 1800.0
    """Seconds after which the start is given up."""

    def run(self) -> None:
        """Print a row for each number of questions."""
        print("| questions | seconds | CPU s | peak MB |\n| ---: | ---: | ---: | ---: |")
        for questions in (FEW, self.questions):
            seconds, cpu, peak = self.measure(questions)
            print(f"| {questions:,} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)

    def measure(self, questions: int) -> tuple[float, float, float]:
        """Return the seconds, CPU seconds and peak MB of a driver until the first batch begins."""
        out = self.out.absolute()
        material = Material.make(out / "material")
        task = out / f"task-{questions}.jsonl"
        write_questions(task, questions)
        folder = out / f"start-{questions}-{time.time():.0f}"
        folder.mkdir()
        command = ["evaluate", "--model", material.model, "--task", str(task), "--random", "12"]
        command += ["--output", str(folder / "run"), "--engine", "ray"]
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(machines(folder / "cluster", 1))
            begun = time.monotonic()
            variables = {"RAY_ADDRESS": cluster.address}
            driver = start_cola(command, folder / "printed.log", variables)
            stack.callback(end, driver, 0)
            until(lambda: bool(cluster.begun()), driver, self.limit)
            return time.monotonic() - begun, *cost_of(driver)


def cost_of(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the CPU seconds, and the MB at their peak, of a process so far."""
    times = psutil.Process(process.pid).cpu_times()
    status = Path(f"/proc/{process.pid}/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return times.user + times.system, int(peak) / 1000


Measured = (
    Annotated[Batches, tyro.conf.subcommand("batches")]
    | Annotated[Start, tyro.conf.subcommand("start")]
)

if __name__ == "__main__":
    measured: Any = Measured
    tyro.cli(measured, description=__doc__).run()
