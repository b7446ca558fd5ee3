"""`cola search` by this checkout and by another: its cost, and whether the rows are the same.

`python -m experiments.search_speed --model CHECKPOINT --task arc_easy.jsonl --out FOLDER` runs the
command with an empty cache of programs, and again with a full one, by this checkout and, with
`--package` and `--package-model`, by another, in turn. CPU seconds are those of all threads, since
other processes of a machine disturb them less than wall seconds; the peak is that of the process.
Programs, states that are run again, and useful rows, those of tiles that are no padding, are from
the metrics of the run. Rows of the two are the same where `tests.same_rows` finds no difference.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from cola_jax.report.tables import markdown_table
from cola_jax.runs.run import Run
from tests.same_rows import differences, rows_of

HEAD = ("search", "checkout", "programs cached", "wall s", "CPU s", "peak GB")
HEAD = (*HEAD, "programs", "compiling s", "states again", "useful rows")


@dataclasses.dataclass(frozen=True)
class SearchSpeed:
    """Measure whole searches."""

    model: str
    """Checkpoint directory."""
    task: str
    """A JSONL file or a task's name."""
    out: Path
    """Folder for caches and runs; emptied first."""
    searches: tuple[str, ...] = ("16x30", "24x50", "8x200")
    """Questions x simulations of each search."""
    rounds: int = 1
    """Searches with a full cache of programs."""
    dtype: str = "float32"
    package: Path | None = None
    """Another checkout."""
    package_model: str | None = None
    """Checkpoint directory for it."""


class Spent(NamedTuple):
    """Cost of a command."""

    wall: float  # seconds
    cpu: float
    peak: float  # GB


def main(settings: SearchSpeed) -> None:
    trees = {"this": (Path(__file__).parent.parent, settings.model)}
    if settings.package is not None:
        trees["other"] = (settings.package, settings.package_model or settings.model)
    shutil.rmtree(settings.out, ignore_errors=True)
    rows = [row for size in settings.searches for row in compare(settings, size, trees)]
    print("\n".join(markdown_table(HEAD, rows)))


def compare(
    settings: SearchSpeed, size: str, trees: dict[str, tuple[Path, str]]
) -> Iterator[tuple[str, ...]]:
    """Run a search by each checkout in turn; yield a row of the table for each command."""
    folders = {name: settings.out.resolve() / size / name for name in trees}
    for number in range(1 + settings.rounds):
        for name, (package, model) in trees.items():
            run = folders[name] / f"run-{number}"
            spent = search(settings, size, package, model, run)
            facts = metrics_of(run)
            cells = (f"{spent.wall:.1f}", f"{spent.cpu:.1f}", f"{spent.peak:.2f}")
            cells += (str(facts["compilations"]), f"{facts['compilation_seconds']:.1f}")
            cells += (percent(facts.get("again_share")), percent(1 - facts["padding_share"]))
            yield (size, name, "yes" if number else "no", *cells)
            print(size, name, number, *cells, flush=True)
    runs = [Run(str(folder / "run-0")) for folder in folders.values()]
    if len(runs) == 2:
        lines = differences(*runs)
        print(*lines[:5], sep="\n")
        print(f"{size}: {len(lines)} differences in {len(rows_of(runs[0]))} rows", flush=True)


def search(settings: SearchSpeed, size: str, package: Path, model: str, run: Path) -> Spent:
    """Run the command in a process of a checkout; return its cost."""
    questions, simulations = size.split("x")
    arguments = ["search", "--model", model, "--task", os.path.abspath(settings.task)]
    arguments += ["--limit", questions, "--simulations", simulations, "--dtype", settings.dtype]
    run.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(package.resolve()),
        "JAX_COMPILATION_CACHE_DIR": str(run.parent / "programs"),
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cola_jax", *arguments, "--output", str(run)],
        env=environment,
        cwd=run.parent,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with the status {status}.")
    wall = time.perf_counter() - began
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6)


def metrics_of(run: Path) -> dict[str, Any]:
    """Read the metrics of the only start of a run."""
    (file,) = (run / "starts").glob("*.metrics.json")
    return json.loads(file.read_text())


def percent(share: float | None) -> str:
    """Write a share, which another version may not record."""
    return "" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main(tyro.cli(SearchSpeed, description=__doc__))
