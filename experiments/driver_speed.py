"""What a driver of `--engine ray` costs: a start with many questions, and batches a second.

`python -m experiments.driver_speed start --out FOLDER --questions 100000` starts `cola evaluate` on
a node of this machine, and measures the seconds, CPU seconds and memory of the driver until the
first batch has begun. Needs Linux.
"""

import contextlib
import dataclasses
import json
import subprocess
import time
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from experiments.machines import Material, end, lines_of, machines, start_cola, until
from tests import tiny

FEW = 48  # questions of a start whose cost is that of all starts
PIECE = 1000  # questions that are written at a time


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
        log = folder / "begun.jsonl"
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(machines(log, 1, {"JAX_PLATFORMS": "cpu"}))
            begun = time.monotonic()
            variables = {"RAY_ADDRESS": cluster.address}
            driver = start_cola(command, folder / "printed.log", variables)
            stack.callback(end, driver, 0)
            until(lambda: bool(lines_of(log)), driver, self.limit)
            return time.monotonic() - begun, *cost_of(driver)


def cost_of(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the CPU seconds, and the MB at their peak, of a process so far."""
    times = psutil.Process(process.pid).cpu_times()
    status = Path(f"/proc/{process.pid}/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return times.user + times.system, int(peak) / 1000


def write_questions(file: Path, count: int) -> None:
    """Write questions, each with an id and a text of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [tiny.row(question) for question in tiny.questions(PIECE)]
    with file.open("w") as lines:
        for i in range(count):
            row = rows[i % PIECE]
            own = {"id": f"q{i}", "question": f"{row['question']} ({i})"}
            lines.write(json.dumps(row | own) + "\n")


def main(settings: Annotated[Start, tyro.conf.subcommand("start")]) -> None:
    settings.run()


if __name__ == "__main__":
    main(tyro.cli(Start, description=__doc__))
