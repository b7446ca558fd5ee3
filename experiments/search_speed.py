"""CPU seconds of `cola search`, with an empty cache of programs and with a full one.

`python -m experiments.search_speed --model CHECKPOINT --task arc_easy.jsonl --out FOLDER` runs the
command twice, by this checkout and, with `--package` and `--package-model`, by another. CPU seconds
are those of all threads, since other processes of a machine disturb them less than wall seconds.
"""

import dataclasses
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import tyro

from cola_jax.report.tables import markdown_table


@dataclasses.dataclass(frozen=True)
class SearchSpeed:
    """Measure whole searches."""

    model: str
    """Checkpoint directory."""
    task: str
    """A JSONL file or a task's name."""
    out: Path
    """Folder for caches and runs; emptied first."""
    searches: tuple[str, ...] = ("16x30", "40x50")
    """Questions x simulations of each search."""
    dtype: str = "float32"
    package: Path | None = None
    """Another checkout."""
    package_model: str | None = None
    """Checkpoint directory for it."""


def main(settings: SearchSpeed) -> None:
    mine = Path(__file__).parent.parent
    trees = [(mine, settings.model)]
    if settings.package is not None:
        trees.append((settings.package, settings.package_model or settings.model))
    rows: list[tuple[str, ...]] = []
    for size in settings.searches:
        for package, model in trees:
            clear(settings.out)
            seconds = [run(settings, size, package, model, name) for name in ("cold", "warm")]
            rows.append((size, str(package), *(f"{each:.1f}" for each in seconds)))
            print(*rows[-1], flush=True)
    print("\n".join(markdown_table(("CPU seconds", "checkout", "cold", "warm"), rows)))


def clear(folder: Path) -> None:
    """Empty a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run(settings: SearchSpeed, size: str, package: Path, model: str, name: str) -> float:
    """Run the command in a process; return its CPU seconds."""
    questions, simulations = size.split("x")
    out = settings.out.resolve()
    arguments = ["search", "--model", model, "--task", settings.task, "--limit", questions]
    arguments += ["--simulations", simulations, "--dtype", settings.dtype]
    arguments += ["--output", str(out / name)]
    environment = os.environ | {
        "PYTHONPATH": str(package.resolve()),
        "JAX_COMPILATION_CACHE_DIR": str(out / "programs"),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "cola_jax", *arguments],
        env=environment,
        cwd=out,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(tyro.cli(SearchSpeed, description=__doc__))
