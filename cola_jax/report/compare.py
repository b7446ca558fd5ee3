"""Several runs in one report: which may stand beside each other, their names and differences."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from cola_jax.report.details import model_name, short_digest
from cola_jax.report.statistics import Difference, is_null, list_lengths
from cola_jax.report.summary import check_search
from cola_jax.report.text import line
from cola_jax.runs.comparable import asked_by_run, check_comparable
from cola_jax.runs.directory import RunDirectory

MOST = 6  # runs whose colours are told apart


class Change(NamedTuple):
    """What a run finds more often than the first one, paired over the questions of both."""

    after: Difference  # correct on some path
    shortened: Difference  # correct on fewer layers than the model has


def check_runs(runs: Sequence[RunDirectory]) -> None:
    """Raises ValueError unless the runs are searches of one model, asked the same alike."""
    if len(runs) > MOST:
        raise ValueError(f"a report compares at most {MOST} runs, not {len(runs)}: give fewer.")
    directories = [str(run.directory) for run in runs]
    if twice := next((one for one in directories if directories.count(one) > 1), None):
        raise ValueError(f"{twice} is given twice: give each run once.")
    manifests = [run.manifest() for run in runs]
    for run, manifest in zip(runs, manifests, strict=True):
        check_search(run, manifest["settings"])
    first, *others = zip(directories, manifests, strict=True)
    for directory, manifest in others:
        there, here = (one["settings"].get("model") for one in (first[1], manifest))
        if there != here:
            names = [
                f"{where} is of {model_name(one['starts'][-1])} {short_digest(digest)}".strip()
                for where, one, digest in ((*first, there), (directory, manifest, here))
            ]
            raise ValueError(
                f"a report compares runs of one model, but {names[0]} and {names[1]}: give the "
                "runs of each model to a report of their own."
            )
    compared = asked_by_run(runs[0])
    for run in runs[1:]:
        check_comparable(compared, asked_by_run(run))


def run_names(runs: Sequence[RunDirectory]) -> list[str]:
    """Names each run by as many of the last parts of its directory as tell it from the others."""
    parts = [PurePath(str(run.directory)).parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = [line("/".join(one[-count:])) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {line(str(run.directory))}" for number, run in enumerate(runs, 1)]


def changes(runs: Sequence[RunDirectory], num_layers: int) -> list[Change]:
    """Compares each run but the first with the first, on the questions that both have done."""
    if len(runs) < 2:
        return []
    results = [question_results(run, num_layers) for run in runs]
    first, compared = results[0], []
    for other in results[1:]:
        common = [name for name in first if name in other]
        pairs = np.array([[first[name], other[name]] for name in common], bool)
        pairs = pairs.reshape(len(common), 2, 2)
        compared.append(Change(*(Difference.of(pairs[:, 1, k], pairs[:, 0, k]) for k in (0, 1))))
    return compared


def question_results(run: RunDirectory, num_layers: int) -> dict[str, tuple[bool, bool]]:
    """Says of each question whose baseline is graded: correct on some path, and on fewer layers."""
    questions = run.questions(["question", "baseline", "best"])
    graded = ~is_null(questions["baseline"])
    found = ~is_null(questions["best"])
    shorter = found & (list_lengths(questions["best"]) < num_layers)
    rows = zip(questions["question"].to_pylist(), found.tolist(), shorter.tolist(), strict=True)
    return {name: (f, s) for (name, f, s), known in zip(rows, graded, strict=True) if known}
