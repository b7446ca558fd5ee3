"""Whether a run survives kills, and what each costs.

`python -m experiments.kills --out FOLDER --kills 5 --within 30 search --model ...` runs a command
of `cola` twice, with --output FOLDER/whole and FOLDER/killed. The second is killed (SIGKILL, with
all its processes) that often, each time within so many seconds of its first evaluation, and then
left to end. A table says of each kill how long after the first evaluation of that start it came;
the seconds lost, from the newest file that holds evaluations, or from the first evaluation where
that is later, to the kill, and how many of them programs were being compiled, which a cache keeps;
and the evaluations that the next start has to repeat, which were made or begun and are in no file.
At last the rows of all runs in both folders are compared to the bit.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
import tyro
from tyro.conf import Positional

from cola_jax.execute.metrics import COMPILED
from cola_jax.runs.directory import MANIFEST, UNFINISHED
from experiments.same_rows import SameRows, compare

CALL = "call"
FOLDERS = ("evaluations", UNFINISHED)  # of a run, that hold evaluations
HEAD = """| killed after | seconds lost | compiling | made or begun | to repeat | of all |
| ---: | ---: | ---: | ---: | ---: | ---: |"""


@dataclasses.dataclass(frozen=True)
class Kills:
    """Kill a run at random moments, and compare its rows with those of an unbroken one."""

    command: Positional[tuple[str, ...]]
    """The arguments of `cola`, without --output; after `--`."""
    out: str
    """Folder for both run directories."""
    kills: int = 5
    """How often the run is killed, unless it ends before."""
    within: float = 30.0
    """Seconds after the first evaluation of a start within which it is killed."""
    seed: int = 0


def main(settings: Kills) -> None:
    out = Path(settings.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    drawn, log = random.Random(settings.seed), out / "log"
    start(settings.command, out / "whole", log).communicate()
    total = len(written(out / "whole"))
    print(HEAD)
    for _ in range(settings.kills):
        before = len(written(out / "killed"))
        log.unlink()
        process = start(settings.command, out / "killed", log)
        if not killed(process, log, drawn.uniform(0, settings.within)):
            break
        kill, (calls, compiled) = time.time(), read(log)
        after, begun = len(written(out / "killed")), sum(count for _, count in calls)
        since = max([calls[0][0], *newest(out / "killed")])
        compiling = sum(max(0.0, min(end, kill) - max(end - took, since)) for end, took in compiled)
        repeated, lost = before + begun - after, kill - since
        print(
            f"| {kill - calls[0][0]:.1f} s | {lost:.1f} | {compiling:.1f} | {begun} | {repeated} "
            f"| {repeated / total:.1%} |",
            flush=True,
        )
    start(settings.command, out / "killed", log).communicate()
    runs = [file.parent.relative_to(out / "whole") for file in (out / "whole").rglob(MANIFEST)]
    pairs = [[str(out / name / run) for name in ("whole", "killed")] for run in runs]
    same = [compare(SameRows(*pair, bits=True)) for pair in pairs]
    sys.exit(0 if same and all(same) else 1)


def start(command: tuple[str, ...], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts `cola` in a process group of its own, which notes its evaluations in a log."""
    log.touch()
    code = "import sys; from experiments.kills import noted; noted(*sys.argv[1:])"
    arguments = [str(log), *command, "--output", str(directory)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def noted(log: str, *arguments: str) -> None:
    """Runs `cola`, and notes each call of evaluations before it is made, and compilations."""
    from cola_jax.cli import main
    from cola_jax.runs.journal import ResumedEvaluator

    evaluate = ResumedEvaluator.evaluate

    def note(*values: Any) -> None:
        with open(log, "a") as file:
            file.write(" ".join(map(str, (time.time(), *values))) + "\n")

    def noted_evaluate(self: ResumedEvaluator, paths: Any, some: Any, out: Any) -> None:
        note(CALL, len(some))
        evaluate(self, paths, some, out)

    def hear(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED and read(Path(log))[0]:
            note(COMPILED, duration_secs)

    ResumedEvaluator.evaluate = noted_evaluate
    jax.monitoring.register_event_duration_secs_listener(hear)
    main(arguments)


def read(log: Path) -> tuple[list[tuple[float, int]], list[tuple[float, float]]]:
    """Reads the time and the evaluations of each call; the end and the seconds of compilations."""
    lines = [line.split() for line in log.read_text().splitlines()]
    calls = [(float(at), int(value)) for at, what, value in lines if what == CALL]
    return calls, [(float(at), float(value)) for at, what, value in lines if what == COMPILED]


def killed(process: subprocess.Popen[bytes], log: Path, seconds: float) -> bool:
    """Kills a process so many seconds after its first evaluation; False where it ends before."""
    while not log.read_text():
        time.sleep(0.05)
        if process.poll() is not None:
            return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def files(directory: Path) -> Iterator[Path]:
    """Lists the files of runs below a directory that hold evaluations."""
    for name in FOLDERS:
        yield from directory.rglob(f"{name}/[!.]*.parquet")


def newest(directory: Path) -> list[float]:
    """Returns when the newest file with evaluations was written, if there is one."""
    return sorted(file.stat().st_mtime for file in files(directory))[-1:]


def written(directory: Path) -> set[tuple[Path, str, tuple[int, ...]]]:
    """Returns the run, question and path of each evaluation that is in a file."""
    return {
        (file.parent.parent, row["question"], tuple(row["path"]))
        for file in files(directory)
        for row in pq.read_table(file, columns=["question", "path"]).to_pylist()
    }


if __name__ == "__main__":
    main(tyro.cli(Kills, description=__doc__))
