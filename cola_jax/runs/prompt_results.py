"""Estimates of paths that were evaluated on the same questions in several prompts."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cola_jax.errors import InputError
from cola_jax.path import identity
from cola_jax.runs.estimates import CORRECT, Estimate
from cola_jax.runs.path_results import LAYERS, change_estimates, group_of
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Crossed, Share

VERDICTS = ["question", "node", "verdict", "margin"]


def prompt_results(runs: Sequence[Run]) -> Results:
    """Compare paths with the identity path on questions crossed with prompts, a run for each.

    The identity path is one of them. Raises InputError for runs of other paths or questions.
    """
    facts = runs[0].facts()
    right = read_verdicts(runs)  # [n, K, C]
    plain = facts.paths.index(identity(facts.num_layers))
    differences = {}
    for c, path in enumerate(facts.paths):
        if c != plain:
            differences[group_of(path, facts.num_layers)] = Crossed.of(
                right[..., c].astype(float) - right[..., plain]
            )
    changes = change_estimates(differences)
    estimates = [Estimate.count("evaluations", right.size)]
    for c, path in enumerate(facts.paths):
        group = group_of(path, facts.num_layers)
        estimates.append(Estimate(LAYERS, group, len(path), unit="count"))
        estimates.append(Estimate.of(CORRECT, Share.of(right[..., c]), group=group))
        if group in changes:
            estimates.append(changes[group])
            estimates += by_prompt(group, differences[group])
    facts = runs[0].facts()
    return Results(estimates, facts.to_json() | {"done": len(right), "prompts": len(runs)})


def by_prompt(group: str, difference: Crossed) -> list[Estimate]:
    """Return a difference in each prompt, and the test that the prompts do not differ."""
    estimates = []
    for number, each in enumerate(difference.by_prompt, start=1):
        estimates.append(Estimate.of(f"prompt {number}", each, "points", group=group))
    if difference.prompts > 1:
        spread = difference.prompt_sd
        p = difference.interaction_p
        estimates.append(Estimate("prompt sd", group, spread, unit="points", p=p))
    return estimates


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
