"""Compare two runs row by row: `python -m tests.same_rows RUN OTHER`.

With `--model CHECKPOINT` in place of OTHER, the paths of the run are evaluated again by this code.
The paths of every question and target must be the same, and margins equal within 1e-4, relative to
the largest if that is above 1; verdicts must be equal wherever a margin is above 1e-3. Prints what
differs, and exits with status 1 if anything does.
"""

import dataclasses
import json
import sys
from collections import Counter

import numpy as np
import tyro
from etils import epath
from tyro.conf import Positional

from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.errors import InputError
from cola_jax.execute.inputs import pad_paths
from cola_jax.path import format_path
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session
from cola_jax.tasks import TaskConfig

TOLERANCE = 1e-4  # of margins
CLEAR = 1e-3  # a margin above which no rounding changes a verdict
COLUMNS = ["question", "target", "control", "path", "verdict", "margin"]
SHOWN = 20  # differences printed

Key = tuple[str, int | None, tuple[int, ...]]  # question, target of a control search, path
Rows = dict[Key, tuple[bool | None, float]]  # verdicts and margins


@dataclasses.dataclass(frozen=True)
class SameRows:
    """Compare the paths, verdicts and margins of two runs."""

    run: Positional[str]
    """Run directory."""
    other: Positional[str | None] = None
    """Run directory to compare with."""
    model: str | None = None
    """Checkpoint directory, to evaluate the paths of the run again in place of OTHER."""


def main(settings: SameRows) -> None:
    rows = rows_of(Run(settings.run))
    if settings.other is not None:
        others = rows_of(Run(settings.other))
    else:
        others = evaluate_again(settings.run, rows, str(settings.model))
    lines = compare(rows, others)
    print("\n".join([*lines[:SHOWN], f"{len(lines)} differences in {len(rows)} evaluations"]))
    sys.exit(1 if lines else 0)


def evaluate_again(run: str, rows: Rows, model: str) -> Rows:
    """Evaluate the paths of a run, on its task."""
    first = min((epath.Path(run) / "starts").glob("*.json"), key=lambda file: file.name)
    start = json.loads(first.read_text())
    task = TaskConfig(**start["task_config"])
    session = Session.prepare(model, task.prepare, dtype=start["settings"]["dtype"])
    ids = [question.id for question in session.asked.questions]
    paths = [sorted({key[2] for key in rows if key[0] == question}) for question in ids]
    evaluate = EngineEvaluator(session.engine, session.model, session.asked)
    verdicts = evaluate(pad_paths(paths, len(ids), session.model.config.num_layers))
    again: Rows = {}
    for key in rows:
        b, target = ids.index(key[0]), key[1]
        row = verdicts.take((b, paths[b].index(key[2])))
        row = row if target is None else row.of_target(target)
        again[key] = bool(row.verdict), float(row.margin)
    return again


def differences(run: Run, other: Run) -> list[str]:
    """Describe each evaluation in which two runs differ."""
    return compare(rows_of(run), rows_of(other))


def compare(rows: Rows, others: Rows) -> list[str]:
    """Describe each evaluation whose verdict or margin differs."""
    margins = np.abs([margin for each in (rows, others) for _, margin in each.values()])
    limit = TOLERANCE * max([1.0, *margins[np.isfinite(margins)]])
    lines = [f"{shown(key)} is in one run only" for key in rows.keys() ^ others.keys()]
    for key in sorted(rows.keys() & others.keys(), key=shown):
        (verdict, margin), (other_verdict, other_margin) = rows[key], others[key]
        if margin != other_margin and not abs(margin - other_margin) <= limit:
            lines.append(f"{shown(key)} has margins {margin:.6g} and {other_margin:.6g}")
        elif verdict != other_verdict and abs(margin) > CLEAR:
            lines.append(f"{shown(key)} has verdicts {verdict} and {other_verdict}")
    return lines


def rows_of(run: Run) -> Rows:
    """Read the verdict and the margin of every evaluation; a question twice is an error."""
    rows, doubled = read_rows(run)
    if doubled:
        raise InputError(f"{run.directory} has {len(doubled)} questions twice.")
    return rows


def read_rows(run: Run) -> tuple[Rows, set[str]]:
    """Read the verdict and the margin of every evaluation, and the questions that are there twice.

    These are the rows that every reader of a run gets: of a question in two parts, those of one.
    """
    rows: Rows = {}
    counts = Counter(run.questions(["question"])["question"].to_pylist())
    doubled = {question for question, number in counts.items() if number > 1}
    for row in run.evaluations(COLUMNS).to_pylist():
        key = row["question"], row["target"] if row["control"] else None, tuple(row["path"])
        if key in rows:
            doubled.add(row["question"])
        rows[key] = row["verdict"], row["margin"]
    return rows, doubled


def shown(key: Key) -> str:
    """Write the name of an evaluation."""
    question, target, path = key
    search = "" if target is None else f", search for option {target}"
    return f"question {question}{search}, path {format_path(path)}"


if __name__ == "__main__":
    main(tyro.cli(SameRows))
