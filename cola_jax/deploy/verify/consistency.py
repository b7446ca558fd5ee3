"""Self-consistency: the majority vote over drawn answers (Wang et al., arXiv 2203.11171)."""

from collections.abc import Sequence

import numpy as np

from cola_jax.deploy.rules import signals, vote
from cola_jax.errors import InputError, shorten
from cola_jax.path import identity
from cola_jax.runs.run import Run
from cola_jax.runs.stored import Asked, asked_by_run, check_comparable, stored_verdicts
from cola_jax.scoring.scorer import Encoded


def samples(path_layers: float, num_layers: int) -> int:
    """Return the number of answers that all L layers give for the cost of `path_layers`.

    At least one, and never more layers run than those of the path, or mean of paths, unless it is
    shorter than the model.
    """
    return max(1, int(path_layers // num_layers))


def majority(runs: Sequence[Run], encoded: Sequence[Encoded]) -> np.ndarray:
    """Return whether the answer that most runs give is right [n], in the order of `encoded`.

    Of answers given equally often, that of the earliest run; the verdict is that of the first run
    that gives it. A truncated answer is none.

    Args:
      runs: m evaluations of the identity path alone, which differ in nothing but the seed.
      encoded: the questions, all of them done in each run.

    Raises:
      InputError: for runs that are not so.
    """
    check_samples(runs, encoded)
    verdicts = [stored_verdicts(run, encoded, 1) for run in runs]
    answers = np.concatenate([signals(each).answer for each in verdicts], axis=1)
    right = np.concatenate([each.verdict for each in verdicts], axis=1)
    return right[np.arange(len(right)), vote(answers)]


def check_samples(runs: Sequence[Run], encoded: Sequence[Encoded]) -> None:
    """Raise InputError for runs that are not samples of all layers on the same questions."""
    names = {each.question.id for each in encoded}
    seeds: dict[int | None, Run] = {}
    for run in runs:
        manifest, place = run.manifest(), run.directory
        settings, start = manifest["settings"], manifest["starts"][-1]
        if not (start.get("scorer") or {}).get("decodes"):
            raise InputError(f"{place} has no decoded answers: give --scorer generation.")
        if settings.get("paths") != [list(identity(start["num_layers"]))]:
            raise InputError(f"{place} is not of all layers alone: evaluate without --paths.")
        if others := names ^ {*run.questions(["question"])["question"].to_pylist()}:
            raise InputError(
                f"{place} has other questions, or is not finished ({shorten(sorted(others))}): "
                "evaluate the same questions, and let it finish."
            )
        other = seeds.setdefault(settings.get("sample_seed"), run)
        if other is not run:
            raise InputError(
                f"{other.directory} and {place} are the same sample: give each a --sample-seed."
            )
        check_comparable(without_seed(runs[0]), without_seed(run))


def without_seed(run: Run) -> Asked:
    """Read the questions of a run, and its settings but for the seed of its draws."""
    asked = asked_by_run(run)
    return asked._replace(values=asked.values | {"sample_seed": None})
