"""CPU seconds of `cola search`, with an empty cache of programs and with a full one.

`python -m experiments.search_speed --model CHECKPOINT --task arc_easy.jsonl --out FOLDER` runs the
command twice, by this checkout and, with `--package` and `--package-model`, by another; then twice
more one batch at a time, sampling its threads, for the parts; sampling takes CPU
seconds of its own, which are in none of them. CPU seconds are those of all threads, since other
processes of a machine disturb them less than wall seconds.
"""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

from cola_jax.report.tables import markdown_table
from experiments.cpu_parts import CpuParts

PARTS = ("import and load", "compile", "selection", "host", "device", "confirmations", "report")
SAMPLED = "import sys; from experiments.search_speed import sample; sample(sys.argv[1:])"


@dataclasses.dataclass(frozen=True)
class SearchSpeed:
    """Measure whole searches, and the parts of one."""

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
    parts: bool = True
    """Measure the parts as well."""


def main(settings: SearchSpeed) -> None:
    mine = Path(__file__).parent.parent
    trees = [(mine, settings.model)]
    if settings.package is not None:
        trees.append((settings.package, settings.package_model or settings.model))
    whole, parts = [], []
    for size in settings.searches:
        for package, model in trees:
            clear(settings.out)
            seconds = [run(settings, size, package, model, name)[0] for name in ("cold", "warm")]
            whole.append((size, str(package), *(f"{each:.1f}" for each in seconds)))
            print(*whole[-1], flush=True)
        if settings.parts:
            clear(settings.out)
            for name in ("cold", "warm"):
                _, sampled = run(settings, size, mine, settings.model, name, sampled=True)
                cells = [f"{sampled['parts'].get(part, 0):.1f}" for part in PARTS]
                useful = 1 - padding_share(settings.out / name)
                parts.append((size, name, *cells, str(sampled["programs"]), f"{useful:.3f}"))
                print(*parts[-1], flush=True)
    print("\n".join(markdown_table(("CPU seconds", "checkout", "cold", "warm"), whole)))
    head = ("one batch at a time", "cache", *PARTS, "programs", "useful token rows")
    print("\n" + "\n".join(markdown_table(head, parts)))


def padding_share(run: Path) -> float:
    """Read the share of padding rows in the tiles of a run with one start."""
    files = map(json.loads, (file.read_text() for file in (run / "starts").glob("*.json")))
    (share,) = (file["padding_share"] for file in files if "padding_share" in file)
    return share


def clear(folder: Path) -> None:
    """Empty a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run(
    settings: SearchSpeed, size: str, package: Path, model: str, name: str, *, sampled: bool = False
) -> tuple[float, dict[str, Any]]:
    """Run the command in a process; return its CPU seconds and samples."""
    questions, simulations = size.split("x")
    out, file = settings.out.resolve(), settings.out.resolve() / f"{name}.json"
    arguments = ["search", "--model", model, "--task", settings.task, "--limit", questions]
    arguments += ["--simulations", simulations, "--dtype", settings.dtype]
    arguments += ["--output", str(out / name)]
    environment = os.environ | {
        "PYTHONPATH": str(package.resolve()),
        "JAX_COMPILATION_CACHE_DIR": str(out / "programs"),
        # as `cola` sets them itself, unless JAX is imported before
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    program = ["-c", SAMPLED, str(file)] if sampled else ["-m", "cola_jax"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *program, *arguments],
        env=environment,
        cwd=out,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, json.loads(file.read_text()) if sampled else {}


def sample(arguments: list[str]) -> None:
    """Run a command one batch at a time, and write its CPU seconds by part to a file."""
    file, *command = arguments
    with CpuParts() as parts:
        from cola_jax.cli.main import main as run_command
        from cola_jax.metrics import compilations

        run_command(command)
        compiled: Any = compilations()
        programs = getattr(compiled, "count", compiled)  # earlier versions return an object
    Path(file).write_text(json.dumps({"parts": parts.parts, "programs": programs}))


if __name__ == "__main__":
    main(tyro.cli(SearchSpeed, description=__doc__))
