"""Whether a run survives kills and other signals, and the work that each loses.

`python -m tests.cluster.kills --out FOLDER --kills 5 --within 30 -- search --model ...` runs a
command of `cola` twice, with --output FOLDER/whole and FOLDER/other, or with those in place of
{out}. The second run is interrupted in each start by SIGKILL, SIGTERM or SIGINT, at a random moment
after the first evaluation of that start (of a conversion: after its start), and is then left to
end. A table has, for each signal, its moment, the seconds since the newest file of evaluations, and
the evaluations that were begun and have to be repeated. Exits with status 1 where the outputs
differ (paths, verdicts and margins of runs, other files byte by byte), or where a signal ended a
command with another status than 143 or 130.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tyro
from tyro.conf import Positional

from cola_jax.runs.run import MANIFEST, UNFINISHED, Run
from tests.same_rows import differences

WHOLE, OTHER = "whole", "other"  # of equal lengths, which files of Orbax have
PRINTED = "printed"
OUT = "{out}"  # in a command: the output, which is given as --output otherwise
DATED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax's, with times and folders
HEAD = """| signal | after | seconds lost | begun | to repeat |
| --- | ---: | ---: | ---: | ---: |"""


@dataclasses.dataclass(frozen=True)
class Kills:
    """Interrupt a run at random moments, and compare its rows with those of an unbroken one."""

    command: Positional[tuple[str, ...]]
    """The arguments of `cola`, without --output; after `--`."""
    out: str
    """Folder for both run directories."""
    kills: int = 5
    """Number of SIGKILLs, unless the run ends before."""
    terms: int = 0
    """Number of SIGTERMs."""
    ints: int = 0
    """Number of SIGINTs."""
    within: float = 30.0
    """Seconds after the first evaluation of a start within which a signal comes."""
    seed: int = 0


def main(settings: Kills) -> None:
    out = Path(settings.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    generator, log = random.Random(settings.seed), out / "log"
    start(settings.command, out / WHOLE, log).communicate()
    numbers = [signal.SIGKILL] * settings.kills
    numbers += [signal.SIGTERM] * settings.terms + [signal.SIGINT] * settings.ints
    generator.shuffle(numbers)
    wrong, endings = 0, []
    print(HEAD)
    for number in numbers:
        before = len(written(out / OTHER))
        log.unlink()
        process = start(settings.command, out / OTHER, log)
        if not interrupt(process, number, log, generator.uniform(0, settings.within)):
            break
        print(row(out, log, number, before), flush=True)
        if number != signal.SIGKILL:
            wrong += process.returncode != 128 + number
            lines = [line for line in (out / PRINTED).read_text().splitlines() if line.strip()]
            endings.append(f"status {process.returncode}: {lines[-1] if lines else ''}")
    start(settings.command, out / OTHER, log).communicate()
    print("\n".join(endings))
    sys.exit(0 if same_output(out / WHOLE, out / OTHER) and not wrong else 1)


def with_output(command: Sequence[str], out: Path) -> tuple[str, ...]:
    """Return a command that writes to `out`."""
    if OUT in command:
        return tuple(str(out) if word == OUT else word for word in command)
    return (*command, "--output", str(out))


def same_output(whole: Path, other: Path) -> bool:
    """Whether runs have the same paths and verdicts; without runs, whether all files are equal."""
    runs = [file.parent.relative_to(whole) for file in whole.rglob(MANIFEST)]
    if runs:
        return not any(differences(Run(whole / run), Run(other / run)) for run in runs)
    names, others = ({f.relative_to(top) for f in top.rglob("*")} for top in (whole, other))
    return names == others and all(
        (whole / name).read_bytes().replace(bytes(whole), bytes(other))
        == (other / name).read_bytes()
        for name in names
        if (whole / name).is_file() and name.name not in DATED
    )


def start(command: tuple[str, ...], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `cola` in a process group of its own, which notes its evaluations in a log."""
    log.touch()
    code = "import sys; from tests.cluster.kills import noted; noted(*sys.argv[1:])"
    with open(directory.parent / PRINTED, "w") as printed:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(log), *with_output(command, directory)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=printed,
        )


def noted(log: str, *arguments: str) -> None:
    """Run `cola`, and note the time and the evaluations of each call before it is made.

    A conversion, which makes none, is noted as a call of none.
    """
    from cola_jax.cli.main import main
    from cola_jax.scoring import evaluations

    cut = evaluations.cut_waves

    def note(count: int) -> None:
        with open(log, "a") as file:
            file.write(f"{time.time()} {count}\n")

    def noted_cut(*arguments: Any) -> Any:
        for wave in cut(*arguments):
            note(sum(map(len, wave)))
            yield wave

    if arguments[0] == "convert":
        note(0)
    evaluations.cut_waves = noted_cut
    main(arguments)


def interrupt(
    process: subprocess.Popen[bytes], number: signal.Signals, log: Path, seconds: float
) -> bool:
    """Send a signal some seconds after the first evaluation; False for a process that ended."""
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


def row(out: Path, log: Path, number: signal.Signals, before: int) -> str:
    """Format the loss of a signal, where `before` evaluations were written before the start."""
    end, calls = time.time(), [line.split() for line in log.read_text().splitlines()]
    first, begun = float(calls[0][0]), sum(int(count) for _, count in calls)
    newest = max([first, *(file.stat().st_mtime for file in files(out / OTHER))])
    repeated = before + begun - len(written(out / OTHER))
    return f"| {number.name} | {end - first:.1f} s | {end - newest:.1f} | {begun} | {repeated} |"


def files(directory: Path) -> Iterator[Path]:
    """List the files of runs below a directory that hold evaluations."""
    for name in ("evaluations", UNFINISHED):
        yield from directory.rglob(f"{name}/[!.]*.parquet")


def written(directory: Path) -> set[tuple[Path, str, tuple[int, ...]]]:
    """Return the run, question and path of each evaluation that is in a file."""
    return {
        (file.parent.parent, row["question"], tuple(row["path"]))
        for file in files(directory)
        for row in pq.read_table(file, columns=["question", "path"]).to_pylist()
    }


if __name__ == "__main__":
    main(tyro.cli(Kills, description=__doc__))
