"""What questions cost and show: counts of their evaluations and of what searches improved."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from cola_jax.layer_costs import LayerCosts

COUNTED = ["evaluations", "controls", "again", "again_answers"]  # columns of questions


@dataclasses.dataclass
class Counts:
    """Counts of questions that are added table by table."""

    evaluations: int = 0
    # questions with a correct path, by the pretrained model's verdict and the layers of the best
    found: Counter[tuple[bool | None, float]] = dataclasses.field(default_factory=Counter)
    costs: LayerCosts | None = None  # by which the length of paths of parts is counted

    def add(self, questions: pa.Table, *, robust: bool) -> None:
        """Count questions; those of searches have the columns `COUNTED`, `baseline` and `best`."""
        if "best" not in questions.column_names:
            self.evaluations += sum(filter(None, questions["evaluations"].to_pylist()))
            return
        rows = questions.to_pylist()
        self.evaluations += count_evaluations(rows, robust=robust)
        self.count_best(rows)

    def count_best(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the best paths of rows of questions."""
        for row in rows:
            path = row.get("best")
            if path is not None:
                layers = len(path) if self.costs is None else self.costs.layers(path)
                self.found[row["baseline"], layers] += 1

    def improvements(self, num_layers: int) -> dict[str, int]:
        """Count the questions that a search corrected, and those right on fewer layers."""
        corrected = shortened = 0
        for (baseline, layers), number in self.found.items():
            corrected += number * (baseline is False)
            shortened += number * (bool(baseline) and layers < num_layers)
        return {"corrected": corrected, "shortened": shortened}


def count_evaluations(questions: Iterable[Mapping[str, Any]], *, robust: bool = False) -> int:
    """Count the evaluations of questions: each path that was run, in each prompt, once.

    Those of control searches and of paths asked again are among them. A robust search, of an
    earlier version, ran every path in all wordings. `questions` are rows with the columns
    `COUNTED`.
    """
    total = 0
    for row in questions:
        controls = row["controls"] or ()
        paths = row["evaluations"] + sum(each["evaluations"] - each["shared"] for each in controls)
        if robust:
            total += paths * (1 + len(row["again_answers"] or ()))
        else:
            total += paths + count_again(row)
    return total


def count_again(question: Mapping[str, Any]) -> int:
    """Count the evaluations of a question in other wordings."""
    searches = [question, *(question["controls"] or ())]
    paths = {tuple(asked["path"]) for search in searches for asked in search["again"] or ()}
    return len(paths) * len(question["again_answers"] or ())


def improvements(
    questions: Iterable[Mapping[str, Any]], num_layers: int, costs: LayerCosts | None = None
) -> dict[str, int]:
    """Count the questions of rows that a search corrected, and those right on fewer layers."""
    counts = Counts(costs=costs)
    counts.count_best(questions)
    return counts.improvements(num_layers)
