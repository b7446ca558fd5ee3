"""Estimates of paths, or rules, that were measured on the same questions in one or more prompts."""

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from cola_jax.errors import InputError
from cola_jax.runs.blinding import check_verdict
from cola_jax.runs.estimates import APART, CORRECT, MODEL, PROMPT_SD, Estimate
from cola_jax.runs.path_results import change_estimates, group_of, length_estimate
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Crossed, Difference, Share, mean

VERDICTS = ["question", "node", "verdict", "margin"]


def prompt_results(runs: Sequence[Run]) -> Results:
    """Compare paths with the identity path on questions crossed with prompts, a run for each.

    The identity path is one of them. Raises InputError for runs of other paths or questions, and of
    a trial that has no verdict yet.
    """
    facts = runs[0].facts()
    check_verdict(runs[0].directory, facts.settings)
    right = read_verdicts(runs)  # [n, K, C]
    groups = [group_of(path, facts.num_layers) for path in facts.paths]
    by_group = {group: right[..., c] for c, group in enumerate(groups)}
    measured = measured_estimates(by_group, by_group[MODEL])
    estimates = [Estimate.count("evaluations", right.size)]
    for group, path in zip(groups, facts.paths, strict=True):
        estimates.append(length_estimate(group, path, facts.costs))
        estimates += measured[group]
    recorded = facts.to_json() | {"done": len(right), "prompts": len(runs)}
    if len(groups) > 1:  # a single path is not chosen
        chosen_on = functools.reduce(operator.or_, (run.chosen_on() for run in runs))
        recorded |= chosen_on.field()
    return Results(estimates, recorded)


def measured_estimates(
    right: Mapping[str, np.ndarray], plain: np.ndarray
) -> dict[str, list[Estimate]]:
    """Compare groups with the model by right answers [n, K] of n questions in K prompts.

    Returns the estimates of each group and of MODEL, whose answers are `plain`.
    """
    differences = {
        group: difference_of(answers, plain) for group, answers in right.items() if group != MODEL
    }
    changes = change_estimates(differences)
    estimates = {}
    for group, answers in {MODEL: plain, **right}.items():
        estimates[group] = [correct_estimate(answers, group)]
        if group in changes:
            estimates[group].append(changes[group])
            estimates[group] += by_prompt(group, differences[group])
    return estimates


def difference_of(right: np.ndarray, plain: np.ndarray) -> Difference | Crossed:
    """Return the share of right answers [n, K] minus that of others on the same questions."""
    if right.shape[1] == 1:
        return Difference.of(right[:, 0], plain[:, 0])
    return Crossed.of(right.astype(float) - plain)


def correct_estimate(right: np.ndarray, group: str, note: str = "") -> Estimate:
    """Return the share of right answers [n, K]; in several prompts, n questions are not n K."""
    if right.shape[1] == 1:
        return Estimate.of(CORRECT, Share.of(right), group=group, note=note)
    return Estimate(CORRECT, group, mean(right), n=len(right), note=note)


def by_prompt(
    group: str, difference: Difference | Crossed, unit: str = "points"
) -> Iterator[Estimate]:
    """Yield a difference in each of several prompts, and the test that they do not differ."""
    if isinstance(difference, Difference):
        return
    for number, each in enumerate(difference.by_prompt, start=1):
        yield Estimate.of(f"prompt {number}", each, unit, group=group)
    if difference.prompts > 1:
        spread = difference.prompt_sd
        p = difference.interaction_p
        yield Estimate(PROMPT_SD, group, spread, unit=APART[unit], p=p)


def read_verdicts(runs: Sequence[Run]) -> np.ndarray:
    """Read verdicts [n, K, C] of runs of the same paths and questions; InputError for others."""
    paths = runs[0].facts().paths
    first: list[str] | None = None
    columns = []
    for run in runs:
        ids, right, _ = read_map(run.evaluations(VERDICTS), len(paths))
        if ids != (first or ids) or run.facts().paths != paths:
            raise InputError(f"{run.directory} has other paths or questions than the first run.")
        first = ids
        columns.append(right)
    return np.stack(columns, axis=1)


def read_map(rows: pa.Table, paths: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Arrange evaluations: sorted ids of n questions, verdicts [n, C] and margins [n, C]."""
    # tests draw signs of questions in order, which must not depend on that of part files
    rows = rows.sort_by("question")
    question = rows["question"].combine_chunks().dictionary_encode()
    ids = question.dictionary.to_pylist()
    place = question.indices.to_numpy(), rows["node"].to_numpy()
    verdict = np.zeros((len(ids), paths), bool)
    margin = np.full((len(ids), paths), -np.inf)
    verdict[place] = rows["verdict"].fill_null(False).to_numpy()
    margin[place] = rows["margin"].to_numpy()
    return ids, verdict, margin
