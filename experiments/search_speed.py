"""The same search on the planned engine and path by path.

`python -m experiments.search_speed --model CHECKPOINT --task TASK.jsonl --out FOLDER`
"""

import dataclasses
import json
from typing import Any

import tyro
from etils import epath

from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.session import Session
from cola_jax.search import PRESETS
from cola_jax.tasks.task import Asking


@dataclasses.dataclass(frozen=True)
class SearchSpeed:
    """Run a search with each executor, and compare speed and rows."""

    model: str
    """A checkpoint directory."""
    task: str
    """A JSONL file or a task's name."""
    out: str
    """A folder for both run directories; they go on where they were stopped."""
    limit: int | None = None
    simulations: int = 50
    leaves: int = 16


def main(settings: SearchSpeed) -> None:
    runs, speeds = [], []
    for reference in (True, False):
        session = Session.prepare(
            settings.model, Asking(settings.task, limit=settings.limit), reference=reference
        )
        name = "one-by-one" if reference else "engine"
        run = session.search(
            str(epath.Path(settings.out) / name),
            PRESETS["cola"],
            simulations=settings.simulations,
            leaves=settings.leaves,
        )
        use = [start["use"] for start in run.manifest()["starts"] if "use" in start]
        print(name, json.dumps(use[-1]) if use else "was complete")
        speeds.append(use[-1]["evaluations_per_second"] if use else float("nan"))
        runs.append(run)
    print(f"engine over path by path: {speeds[1] / speeds[0]:.2f}")
    compare(*map(by_path, runs))


def by_path(run: RunDirectory) -> dict[tuple[str, tuple[int, ...]], dict[str, Any]]:
    """Returns the evaluations of a run by question and path."""
    rows = run.evaluations().to_pylist()
    return {(row["question"], tuple(row["path"])): row for row in rows}


def compare(one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> None:
    """Prints how far two runs agree."""
    both = one.keys() & other.keys()
    verdicts = sum(one[key]["verdict"] != other[key]["verdict"] for key in both)
    margin = max((abs(one[key]["margin"] - other[key]["margin"]) for key in both), default=0.0)
    print(
        f"evaluations: {len(one)} and {len(other)}, {len(both)} of the same question and path; "
        f"{verdicts} verdicts differ, margins by up to {margin:.1e}"
    )


if __name__ == "__main__":
    main(tyro.cli(SearchSpeed, description=__doc__))
