"""Layers dropped without labels against layers dropped by answers.

`python -m experiments.label_free --model CHECKPOINT --task arc_easy.jsonl --out FOLDER --limit 300
--held-out 300` runs `cola static` with each fitness and each limit of layers, with the same
evaluations and seed; flags that are not its own go to `cola static`. The table, and FOLDER's
`label_free.csv`, are of the held-out questions: each path against the model, and against the path
of the same limit that the first fitness chose. Run it again to resume.
"""

import csv
import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from cola_jax.checkpoint import read_metadata
from cola_jax.deploy.settings import Fitness
from cola_jax.files import read_json
from cola_jax.path import format_path, identity
from cola_jax.report.tables import markdown_table
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import format_interval, format_percent, format_points
from cola_jax.scoring.statistics import Effect


@dataclasses.dataclass(frozen=True)
class LabelFree:
    """Compare fitness functions of `cola static` at several numbers of layers."""

    model: str
    """Checkpoint directory."""
    task: str
    """Task, as `cola static` takes it."""
    out: Path
    """Folder of the runs."""
    dropped: tuple[int, ...] = (1, 2, 3, 4)
    """Layers fewer than the model's that a path may run."""
    fitness: tuple[Fitness, ...] = ("accuracy", "likelihood", "kl")
    """Fitness functions; the others are compared with the first."""


def search(settings: LabelFree, longest: int, fitness: str, flags: Sequence[str]) -> Path:
    """Search one path, unless it is done; return its folder."""
    out = settings.out / f"{longest}-{fitness}"
    own = {"model": settings.model, "task": settings.task, "fitness": fitness}
    own |= {"max-layers": str(longest), "out": str(out)}
    command = [sys.executable, "-m", "cola_jax", "static", *flags]
    subprocess.run([*command, *(f"--{name}={value}" for name, value in own.items())], check=True)
    return out


def right_answers(folder: Path, path: str) -> np.ndarray:
    """Return which held-out questions a path answers, [n, K] with each of K prompts."""
    columns = []
    for file in sorted((folder / "held-out").rglob("run.json")):
        rows = Run(str(file.parent)).evaluations(["question", "path", "verdict"]).to_pylist()
        mine = {row["question"]: row["verdict"] for row in rows if format_path(row["path"]) == path}
        columns.append([bool(mine[name]) for name in sorted(mine)])  # not graded is wrong
    return np.array(columns).T


def compare(settings: LabelFree, flags: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each limit of layers and fitness, with shares of 0 to 1."""
    num_layers = read_metadata(settings.model)["config"]["num_layers"]
    for dropped in settings.dropped:
        first = None
        for fitness in settings.fitness:
            folder = search(settings, num_layers - dropped, fitness, flags)
            found = read_json(folder / "static.json")
            right = right_answers(folder, found["path"])
            plain = right_answers(folder, format_path(identity(num_layers)))
            row = {"task": settings.task, "max layers": num_layers - dropped, "fitness": fitness}
            row |= {"path": found["path"], "layers": found["layers"]}
            row |= {"paths evaluated": found["evaluated_paths"], "questions": len(right)}
            row |= {"prompts": right.shape[1], "model": plain.mean(), "correct": right.mean()}
            others = {"model": plain} | ({} if first is None else {settings.fitness[0]: first})
            for name, other in others.items():
                difference = Effect.of(right, other).difference
                row[f"minus {name}"] = difference.value
                row[f"minus {name}, low"], row[f"minus {name}, high"] = difference.interval
            first = right if first is None else first
            yield row


def cells(row: dict[str, Any], others: Sequence[str]) -> tuple[str, ...]:
    """Format a row for people: differences in points with their 95 % intervals.

    With several prompts, these are random as well as the questions.
    """
    shown = [str(row["max layers"]), row["fitness"], row["path"], format_percent(row["correct"])]
    for name in others:
        if name not in row:  # of the first fitness
            shown.append("")
            continue
        interval = format_interval((row[f"{name}, low"], row[f"{name}, high"]), signed=True)
        shown.append(f"{format_points(row[name])} ({interval})")
    return tuple(shown)


def main(settings: LabelFree, flags: Sequence[str]) -> None:
    rows = list(compare(settings, flags))
    with (settings.out / "label_free.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    others = "minus model", f"minus {settings.fitness[0]}"
    head = ("at most", "fitness", "path", "correct", *others)
    print("\n".join(markdown_table(head, [cells(row, others) for row in rows])))


if __name__ == "__main__":
    main(*tyro.cli(LabelFree, description=__doc__, return_unknown_args=True))
