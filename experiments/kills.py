"""Whether a run survives kills.

`python -m experiments.kills --out FOLDER --kills 20 --within 30 cola search ...` runs a command
twice, with --out FOLDER/whole and FOLDER/killed. The second is killed (SIGKILL, with all its
processes) that often, each time within so many seconds of its start, and then left to end; at last
the rows of both are compared to the bit.
"""

import dataclasses
import os
import random
import shutil
import signal
import subprocess

import tyro
from tyro.conf import Positional

from cola_jax.runs.directory import RunDirectory
from experiments.same_rows import SameRows
from experiments.same_rows import main as compare


@dataclasses.dataclass(frozen=True)
class Kills:
    """Kill a run at random moments, and compare its rows with those of an unbroken one."""

    command: Positional[tuple[str, ...]]
    """The command, without --out."""
    out: str
    """Folder for both run directories."""
    kills: int = 20
    """How often the run is killed, unless it ends before."""
    within: float = 30.0
    """Seconds after its start within which a run is killed; a start that loads takes most."""


def main(settings: Kills) -> None:
    shutil.rmtree(settings.out, ignore_errors=True)
    run([*settings.command, "--out", f"{settings.out}/whole"]).communicate()
    kills, drawn, ended = 0, random.Random(0), False
    while not ended and kills < settings.kills:
        process = run([*settings.command, "--out", f"{settings.out}/killed"])
        try:
            process.communicate(timeout=drawn.uniform(0, settings.within))
            ended = True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    parts = len(RunDirectory(f"{settings.out}/killed").parts("questions"))
    print(f"{kills} kills, {parts} parts written by then")
    run([*settings.command, "--out", f"{settings.out}/killed"]).communicate()
    compare(SameRows(f"{settings.out}/whole", f"{settings.out}/killed", bits=True))


def run(command: list[str]) -> subprocess.Popen:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main(tyro.cli(Kills, description=__doc__))
