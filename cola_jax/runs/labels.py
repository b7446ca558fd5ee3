"""Labels: which paths a run found to answer each of its questions correctly."""

import dataclasses
from collections import defaultdict
from typing import Any

import numpy as np

from cola_jax.errors import InputError
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.parts import check_counts

Path = tuple[int, ...]
EVALUATION = ["question", "path", "verdict", "margin", "control"]
QUESTION = ["question", "text", "options", "gold", "prompt_hash", "metadata", "evaluations"]
QUESTION += ["again"]


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """What a run knows of N paths of one question, asked for the correct answer."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    prompt_hash: str
    metadata: dict[str, str]
    paths: tuple[Path, ...]  # in the order of the run, each once
    right: np.ndarray  # [N], in all variants where the search was for that; ungraded is wrong
    margin: np.ndarray  # [N]
    robust: dict[Path, bool] | None  # of the paths asked again; None without variants

    @property
    def correct(self) -> list[Path]:
        """The paths that are right, shortest first."""
        return sorted((p for p, right in zip(self.paths, self.right, strict=True) if right), key=by)

    @property
    def held(self) -> list[Path]:
        """The paths that are right in all variants, shortest first; `correct` without variants."""
        if self.robust is None:
            return self.correct
        return [path for path in self.correct if self.robust.get(path)]


def by(path: Path) -> tuple[int, Path]:
    """Orders paths by length, and by layers where lengths are equal."""
    return len(path), path


def read_labels(run: RunDirectory) -> list[Labels]:
    """Reads the labels of the questions that are done, in the order of the run.

    Raises ValueError for a directory that is no run, and for a run without a question.
    """
    rows: dict[str, dict[Path, Any]] = defaultdict(dict)
    evaluations, asked = run.evaluations(EVALUATION), run.questions(QUESTION)
    check_counts(run.directory, asked, evaluations)
    for row in evaluations.to_pylist():
        if not row["control"]:
            rows[row["question"]].setdefault(tuple(row["path"]), row)
    questions = asked.to_pylist()
    if not questions:
        raise InputError(f"{run.directory} has no question done yet: let the run finish first.")
    return [labels_of(question, rows[question["question"]]) for question in questions]


def labels_of(question: dict[str, Any], rows: dict[Path, Any]) -> Labels:
    """Makes the labels of a question from its row and those of its evaluations."""
    again = question["again"]
    return Labels(
        question=question["question"],
        text=question["text"],
        options=tuple(question["options"]),
        gold=question["gold"],
        prompt_hash=question["prompt_hash"],
        metadata={one["name"]: one["value"] for one in question["metadata"] or ()},
        paths=tuple(rows),
        right=np.array([bool(row["verdict"]) for row in rows.values()], bool),
        margin=np.array([row["margin"] for row in rows.values()], np.float32),
        robust=None
        if again is None
        else {tuple(asked["path"]): all(asked["holds"]) for asked in again},
    )
