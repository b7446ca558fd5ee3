"""Whether a run has the same rows on one process, on four nodes of Ray and on two hosts.

`python -m tests.cluster.engines --out FOLDER` makes a tiny model and questions, runs each command
of `cola` in each of these ways on this machine, and prints a table of the rows that differ: paths
of one run only, margins, and verdicts wherever a margin is above 1e-3. Runs that are in the folder
are not made again. Exits with status 1 where anything differs or a command fails. Needs Linux.
"""

import dataclasses
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from cola_jax.runs.run import MANIFEST, Run
from tests.cluster.machines import Material, end, machines, start_cola
from tests.same_rows import compare, rows_of

NODES, HOSTS = 4, 2
ALONE = "one process"
FRACTION = ["--held-out", "12", "--choose-prompts", "1"]  # of what is chosen for many questions
SHARED = ("search", "evaluate", "generate")  # commands that hosts can share
MADE = "made"  # file of a run that has ended well
HEAD = """| command | engine | seconds | evaluations | differ |
| --- | --- | ---: | ---: | ---: |"""


@dataclasses.dataclass
class Engines:
    """Compare the rows of each command on each engine."""

    out: Path
    """Folder of the runs."""
    commands: tuple[str, ...] = ("search", "evaluate", "generate", "scan", "static", "menu")
    """Commands to compare."""
    questions: int = 48
    """Questions of a run."""
    limit: float = 600.0
    """Seconds after which a command is killed."""

    def arguments(self, command: str) -> list[str]:
        """Return a command line, without its output and engine."""
        made = Material.make(self.out / "material", self.questions)
        asked = ["--prompts-file", made.prompts] if command == "generate" else ["--task", made.task]
        searched = str(self.out / "search" / name_of(ALONE) / "run")
        of_command = {
            "search": ["--simulations", "24"],
            "evaluate": ["--random", "24"],
            "generate": ["--random", "6", "--max-new-tokens", "8"],
            "scan": ["--choose-prompts", "1", "--longest-block", "2"],
            "static": [*FRACTION, "--generations", "3", "--offspring", "6", "--finalists", "3"],
            "menu": [*FRACTION, "--runs", searched, "--candidates", "12", "--size", "3"],
        }[command]
        return [command, *of_command, *asked, "--model", made.model, "--batch-size", "4"]


def main(settings: Engines) -> None:
    settings.out = settings.out.absolute()
    settings.out.mkdir(parents=True, exist_ok=True)
    for command in settings.commands:  # first, as a menu is made of a search
        run(settings, command, ALONE, [[]])
    with machines(settings.out / "cluster", NODES) as cluster:
        environment = {"RAY_ADDRESS": cluster.address}
        engine = f"{NODES} nodes of Ray"
        for command in settings.commands:
            run(settings, command, engine, [["--engine", "ray"]], environment)
    for command in set(settings.commands).intersection(SHARED):
        run(settings, command, f"{HOSTS} hosts", flags_of_hosts())
    print(HEAD)
    different = 0
    for command in settings.commands:
        different += print_rows(settings.out / command)
    sys.exit(1 if different else 0)


def flags_of_hosts() -> list[list[str]]:
    """Return the flags of each of two hosts on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    shared = ["--distributed", "--coordinator", address, "--num-hosts", str(HOSTS)]
    return [[*shared, "--host", str(host)] for host in range(HOSTS)]


def run(
    settings: Engines,
    command: str,
    engine: str,
    flags: Sequence[Sequence[str]],
    environment: dict[str, str] | None = None,
) -> None:
    """Run a command on an engine, by a process for each list of flags, unless it has been."""
    folder = settings.out / command / name_of(engine)
    if (folder / MADE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = [*settings.arguments(command), "--output", str(folder / "run")]
    begun = time.monotonic()
    processes = [
        start_cola([*arguments, *each], folder / f"{number}.log", environment)
        for number, each in enumerate(flags)
    ]
    statuses = [end(process, settings.limit) for process in processes]
    if any(statuses):
        sys.exit(f"cola {command} on {engine} has ended with {statuses}: see {folder}")
    (folder / MADE).write_text(f"{time.monotonic() - begun:.1f}")


def print_rows(folder: Path) -> int:
    """Print the rows of a command; return the number of differences."""
    different = 0
    alone = folder / name_of(ALONE)
    for engine in sorted(folder.iterdir(), key=lambda each: each != alone):
        runs = sorted(file.parent for file in engine.rglob(MANIFEST))
        names = [each.relative_to(engine) for each in runs]
        expected = sorted(file.parent.relative_to(alone) for file in alone.rglob(MANIFEST))
        lines = [f"{name} is there on one engine only" for name in {*names} ^ {*expected}]
        count = 0
        for name in {*names} & {*expected}:
            rows = rows_of(Run(engine / name))
            count += len(rows)
            lines += compare(rows, rows_of(Run(alone / name)))
        different += len(lines)
        seconds = float((engine / MADE).read_text())
        title = engine.name.replace("-", " ")
        print(f"| {folder.name} | {title} | {seconds:.0f} | {count} | {len(lines)} |")
        for line in lines[:5]:
            print(line, file=sys.stderr)
    return different


def name_of(engine: str) -> str:
    """Return the name of an engine's folder."""
    return engine.replace(" ", "-")


if __name__ == "__main__":
    main(tyro.cli(Engines, description=__doc__))
