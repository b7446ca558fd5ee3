"""Does a path that is chosen over several prompts hold on new ones more often?

`python -m experiments.choice_over_prompts --choose RUN RUN ... --measure RUN RUN ...` takes
evaluations of the same paths, a run for each prompt: those of `--choose` (`cola evaluate --prompts
6`) and, of other questions in other prompts, those of `--measure` (`cola verify` of one of them,
whose random paths are the others). It chooses the path of the highest accuracy on questions drawn
from the first runs, each asked in one of 1, 2 or 4 prompts, so that all choices cost as much, and
looks the chosen path up in the second. A choice holds where the path is not below the model there.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cola_jax.path import identity
from cola_jax.report.prompts import read_prompts
from cola_jax.runs.run import Run

HEAD = ("prompts", "gain where chosen", "gain on new prompts", "95 %", "holds, %", "better, %")


@dataclasses.dataclass(frozen=True)
class Choices:
    """Choose paths over few and over several prompts, many times."""

    choose: tuple[str, ...]
    """Runs to choose on, one for each prompt."""
    measure: tuple[str, ...]
    """Runs to measure on."""
    prompts: tuple[int, ...] = (1, 2, 4)
    """Numbers of prompts over which a path is chosen."""
    questions: int = 50
    """Questions of a choice."""
    draws: int = 2000
    """Choices for each number of prompts."""
    kind: str = "all"
    """Paths to choose from: shorter than the model, longer, or all."""
    out: Path | None = None
    """CSV file of the table."""


def differences(directories: Sequence[str]) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Read the paths besides the identity, and their differences to it, [n, K, C]."""
    runs = [Run(directory) for directory in directories]
    paths = [tuple(path) for path in runs[0].settings()["paths"]]
    plain = paths.index(identity(runs[0].manifest()["starts"][-1]["num_layers"]))
    right = read_prompts(runs, len(paths)).astype(float)
    others = [c for c in range(len(paths)) if c != plain]
    return [paths[c] for c in others], right[..., others] - right[..., [plain]]


def choose(values: np.ndarray, prompts: int, questions: int, random: np.random.Generator) -> int:
    """Choose a path [C] on questions each asked in one of several prompts; equals at random."""
    rows = random.permutation(len(values))[:questions]
    columns = random.permutation(values.shape[1])[:prompts]
    means = values[rows, np.resize(columns, questions)].mean(axis=0)
    best = np.flatnonzero(means == means.max())
    return int(random.choice(best))
