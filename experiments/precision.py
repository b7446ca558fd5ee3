"""What holds of the paths that a search found: in float32, in other variants, and in bfloat16.

`python -m experiments.precision --model CHECKPOINT --run RUN --task.task arc_easy.jsonl` takes a
finished search and the flags of its task. It counts the best paths that the reference executor
confirmed in float32 and that were right in all variants, and evaluates some of the paths of every
question again in bfloat16, to count the verdicts that differ.
"""

import dataclasses
from typing import Any

import numpy as np
import tyro

import cola_jax
from cola_jax.path import identity
from cola_jax.report.layers import CORRECTED, RETAINED
from cola_jax.report.table import format_interval, format_percent
from cola_jax.runs.run import Run
from cola_jax.runs.session import RunConfig, Session
from cola_jax.runs.settings import asked_by_run, asked_here, check_comparable
from cola_jax.scoring.statistics import Share
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import show

Path = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Precision:
    """Count what holds of a search."""

    model: str
    """Checkpoint directory."""
    run: str
    """Run directory of a search."""
    task: TaskConfig
    paths: int = 20
    """Paths of a question to evaluate again, drawn evenly, beside the identity and the best."""
    decoys: str | None = None
    """What the search had."""


def chosen_paths(
    rows: list[dict[str, Any]], best: Path | None, count: int, seed: int
) -> list[Path]:
    """Returns paths of a question's evaluations: the first, the best, and others by chance."""
    paths = [tuple(row["path"]) for row in rows]
    drawn = np.random.default_rng(seed).permutation(len(paths))[:count]
    first = [paths[0], *([] if best is None else [best])]
    return list(dict.fromkeys([*first, *(paths[i] for i in drawn)]))


def held(questions: list[dict[str, Any]]) -> list[list[str]]:
    """Counts the best paths that hold in float32, and in all variants.

    The latter of questions that were right, or wrong, in all variants before.
    """
    rows = []
    for name, before in ((RETAINED, True), (CORRECTED, False)):
        some = [q for q in questions if q["baseline"] is before and q["best"] is not None]
        kept = np.array([bool(q["confirmed"]) for q in some], bool)
        alike = [q for q in some if q["again"] and set(q["again"][0]["holds"]) <= {before}]
        again = np.array([holds_again(q) for q in alike], bool)
        for label, mask in (("float32", kept), ("all variants", again)):
            rows.append([f"best paths of {name}: right in {label}", *cells(Share.of(mask))])
    return rows


def holds_again(question: dict[str, Any]) -> bool:
    """Whether the best path was right in all variants."""
    asked = [one["holds"] for one in question["again"] or [] if one["path"] == question["best"]]
    return bool(asked) and all(asked[0])


def cells(share: Share) -> list[str]:
    """Formats a share with its interval and count."""
    return [format_percent(share.value), format_interval(share.interval), f"{share.n:,}"]


def main(settings: Precision) -> None:
    run = Run(settings.run)
    questions = run.questions().to_pylist()
    by_question: dict[str, list[dict[str, Any]]] = {q["question"]: [] for q in questions}
    for row in run.evaluations(["question", "path", "verdict", "control"]).to_pylist():
        if not row["control"]:
            by_question[row["question"]].append(row)
    best = {q["question"]: q["best"] and tuple(q["best"]) for q in questions}

    config = RunConfig(dtype="bfloat16")
    session = Session.prepare(settings.model, settings.task.prepare, config, decoys=settings.decoys)
    here = asked_here(session.settings, session.encoded)
    check_comparable(asked_by_run(run), here, allowed=("dtype",))  # dtype is what is compared
    asked = [one.question for one in session.encoded if one.question.id in by_question]
    paths = [
        chosen_paths(by_question[q.id], best[q.id], settings.paths, seed)
        for seed, q in enumerate(asked)
    ]
    evaluate = cola_jax.evaluator(session.model, asked, session.scorer)
    again = evaluate(paths).verdict
    counts: dict[str, list[bool]] = {name: [] for name in ("identity", "best", "right", "wrong")}
    for b, question in enumerate(asked):
        stored = {tuple(row["path"]): row["verdict"] for row in by_question[question.id]}
        for c, path in enumerate(paths[b]):
            flipped = bool(again[b, c]) != stored[path]
            counts["right" if stored[path] else "wrong"].append(flipped)
            if path == identity(session.num_layers):
                counts["identity"].append(flipped)
            elif path == best[question.id]:
                counts["best"].append(flipped)
    labels = {
        "identity": "identity paths: verdict differs in bfloat16",
        "best": "best paths, likewise",
        "right": "paths that are right, likewise",
        "wrong": "paths that are wrong, likewise",
    }
    flips = [[labels[name], *cells(Share.of(np.array(x, bool)))] for name, x in counts.items()]
    show(["", "share", "95 % interval", "n"], [*held(questions), *flips])


if __name__ == "__main__":
    main(tyro.cli(Precision, description=__doc__))
