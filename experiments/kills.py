"""Whether a run survives kills and other signals, and what each costs.

`python -m experiments.kills --out FOLDER --kills 5 --within 30 -- search --model ...` runs a
command of `cola` twice, with --output FOLDER/whole and FOLDER/other, or with those in place of
{out}. The second gets so many signals, a start each, within so many seconds of the start's first
evaluation (of a conversion: of its start), and is then left to end: SIGKILL, with all its
processes, SIGTERM and SIGINT. A table says of each how long after the first evaluation of that
start it came; the seconds lost, from the newest file that holds evaluations, or from the first
evaluation where that is later, to the end, and how many of them programs were being compiled, which
a cache keeps; and the evaluations that the next start has to repeat, which were made or begun and
are in no file; then what was printed after SIGTERM and SIGINT. At last both outputs are compared:
the paths, verdicts and margins of runs, other files byte by byte. Exits with status 1 where they
differ, or where a signal ended a command with another status than 143 or 130.
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
from cola_jax.runs.run import UNFINISHED
from experiments.outputs import same_output, with_output

CALL = "call"
WHOLE, OTHER = "whole", "other"  # of equal lengths, which files of Orbax have
PRINTED = "printed"
FOLDERS = ("evaluations", UNFINISHED)  # of a run, that hold evaluations
HEAD = """| signal | after | seconds lost | compiling | made or begun | to repeat | of all |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


@dataclasses.dataclass(frozen=True)
class Kills:
    """Kill a run at random moments, and compare its rows with those of an unbroken one."""

    command: Positional[tuple[str, ...]]
    """The arguments of `cola`, without --output; after `--`."""
    out: str
    """Folder for both run directories."""
    kills: int = 5
    """How often the run is killed, unless it ends before."""
    terms: int = 0
    """How often it gets SIGTERM."""
    ints: int = 0
    """How often it gets SIGINT."""
    within: float = 30.0
    """Seconds after the first evaluation of a start within which a signal comes."""
    seed: int = 0


def main(settings: Kills) -> None:
    out = Path(settings.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    drawn, log = random.Random(settings.seed), out / "log"
    start(settings.command, out / WHOLE, log).communicate()
    total, wrong, said = len(written(out / WHOLE)), 0, []
    print(HEAD)
    for number in signals(settings, drawn):
        before = len(written(out / OTHER))
        log.unlink()
        process = start(settings.command, out / OTHER, log)
        if not stopped(process, number, log, drawn.uniform(0, settings.within)):
            break
        print(row(out, log, number, before, total), flush=True)
        if number != signal.SIGKILL:
            wrong += process.returncode != 128 + number
            said.append(f"status {process.returncode}: {ending(out)}")
    start(settings.command, out / OTHER, log).communicate()
    print("\n".join(said))
    sys.exit(0 if same_output(out / WHOLE, out / OTHER) and not wrong else 1)


def signals(settings: Kills, drawn: random.Random) -> list[signal.Signals]:
    """Returns the signals in the order in which they are sent."""
    numbers = [signal.SIGKILL] * settings.kills
    numbers += [signal.SIGTERM] * settings.terms + [signal.SIGINT] * settings.ints
    drawn.shuffle(numbers)
    return numbers


def start(command: tuple[str, ...], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts `cola` in a process group of its own, which notes its evaluations in a log."""
    log.touch()
    code = "import sys; from experiments.kills import noted; noted(*sys.argv[1:])"
    with open(directory.parent / PRINTED, "w") as printed:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(log), *with_output(command, directory)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=printed,
        )


def ending(out: Path) -> str:
    """Returns what a command printed from the line before the one that names a signal."""
    lines = [line for line in (out / PRINTED).read_text().splitlines() if line.strip()]
    traces = sum("Traceback" in line for line in lines)
    return f"{traces} tracebacks, last: {lines[-1] if lines else ''}"


def row(out: Path, log: Path, number: signal.Signals, before: int, total: int) -> str:
    """Formats what a signal cost, when `before` of `total` evaluations were written before."""
    end, (calls, compiled) = time.time(), read(log)
    after, begun = len(written(out / OTHER)), sum(count for _, count in calls)
    since = max([calls[0][0], *newest(out / OTHER)])
    compiling = sum(max(0.0, min(at, end) - max(at - took, since)) for at, took in compiled)
    repeated = before + begun - after
    return (
        f"| {number.name} | {end - calls[0][0]:.1f} s | {end - since:.1f} | {compiling:.1f} "
        f"| {begun} | {repeated} | {repeated / max(1, total):.1%} |"
    )


def noted(log: str, *arguments: str) -> None:
    """Runs `cola`, and notes each call of evaluations before it is made, and compilations.

    A conversion, which makes none, is noted as a call of none.
    """
    from cola_jax.cli.main import main
    from cola_jax.execute.inputs import count_paths
    from cola_jax.scoring import evaluations

    cut = evaluations.cut_waves

    def note(*values: Any) -> None:
        with open(log, "a") as file:
            file.write(" ".join(map(str, (time.time(), *values))) + "\n")

    def noted_cut(*arguments: Any) -> Any:
        for wave in cut(*arguments):
            note(CALL, count_paths(wave))
            yield wave

    def hear(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED and read(Path(log))[0]:
            note(COMPILED, duration_secs)

    if arguments[0] == "convert":
        note(CALL, 0)
    evaluations.cut_waves = noted_cut
    jax.monitoring.register_event_duration_secs_listener(hear)
    main(arguments)


def read(log: Path) -> tuple[list[tuple[float, int]], list[tuple[float, float]]]:
    """Reads the time and the evaluations of each call; the end and the seconds of compilations."""
    lines = [line.split() for line in log.read_text().splitlines()]
    calls = [(float(at), int(value)) for at, what, value in lines if what == CALL]
    return calls, [(float(at), float(value)) for at, what, value in lines if what == COMPILED]


def stopped(
    process: subprocess.Popen[bytes], number: signal.Signals, log: Path, seconds: float
) -> bool:
    """Sends a signal so many seconds after the first evaluation; False where all ends before."""
    while not log.read_text():
        time.sleep(0.05)
        if process.poll() is not None:
            return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)
        return False
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
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
