"""Speed of a search with the fast executor and path by path.

`python -m experiments.search_speed --model CHECKPOINT --task TASK.jsonl --out FOLDER`
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tyro
from etils import epath

from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import count_paths
from cola_jax.execute.reference import run_reference
from cola_jax.execute.worker import Worker
from cola_jax.prompts import Prompts
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.scorer import Evaluate, score_readings
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks import TaskConfig
from cola_jax.tasks.task import Prepared


@dataclasses.dataclass(frozen=True)
class SearchSpeed:
    """Run a search with each executor, and compare speed and rows."""

    model: str
    """Checkpoint directory."""
    task: str
    """A JSONL file or a task's name."""
    out: str
    """Folder for both run directories; run again to resume them."""
    limit: int | None = None
    """Number of questions, from the first."""
    simulations: int = 50
    """Evaluations per question, beyond the baseline."""
    leaves: int = 16
    """Evaluations per question and wave."""


@contextlib.contextmanager
def one_by_one(
    scorer: Scorer, worker: Worker, batch: Sequence[Encoded], workload: Workload
) -> Iterator[Evaluate]:
    """Evaluates paths one by one with the reference executor, as `Scorer.evaluator`."""
    prompts = Prompts.stack([encoded.prompts for encoded in batch])

    def evaluate(paths: np.ndarray) -> Verdicts:
        readings = run_reference(worker.model, prompts, paths, dtype=worker.dtype)
        worker.metrics.add(evaluations=count_paths(paths))
        return score_readings(scorer, batch, readings, paths)

    yield evaluate


def path_by_path(task: TaskConfig, *arguments: Any, **keywords: Any) -> Prepared:
    """Prepares a task whose scorer evaluates path by path."""
    prepared = task.prepare(*arguments, **keywords)
    setattr(prepared.scorer, "evaluator", functools.partial(one_by_one, prepared.scorer))  # noqa: B010
    return prepared


def main(settings: SearchSpeed) -> None:
    runs, speeds = [], []
    search = Settings(PRESETS["cola"], settings.simulations, settings.leaves, 0, False)
    task = TaskConfig(settings.task, limit=settings.limit)
    slow = functools.partial(path_by_path, task)
    for name, prepare in (("path-by-path", slow), ("run-paths", task.prepare)):
        session = Session.prepare(settings.model, prepare)
        run = session.search(str(epath.Path(settings.out) / name), search)
        metrics = [start["metrics"] for start in run.manifest()["starts"] if "metrics" in start]
        print(name, json.dumps(metrics[-1]) if metrics else "was complete")
        speeds.append(metrics[-1]["evaluations_per_second"] if metrics else float("nan"))
        runs.append(run)
    print(f"fast executor over path by path: {speeds[1] / speeds[0]:.2f}")
    compare(*map(by_path, runs))


def by_path(run: Run) -> dict[tuple[str, tuple[int, ...]], dict[str, Any]]:
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
