"""Does a path that is chosen over several prompts hold on new ones more often?

`python -m experiments.choice_over_prompts RUN RUN ...` takes evaluations of the same paths and
questions, a run for each of eight prompts or so: those of a `cola verify`, whose random paths are
the single skips and repeats. Again and again, half of the questions and of the prompts choose the
most accurate path, each question asked in one of 1, 2 or 4 prompts, so that all choices cost as
much, and the other half measures it. Intervals: the jackknife over prompts.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy.stats import t
from tyro.conf import Positional

from cola_jax.path import identity
from cola_jax.report.prompts import read_verdicts
from cola_jax.runs.run import Run
from experiments.paper.results import show

COUNTS = (1, 2, 4)  # prompts over which a path is chosen
HEAD = (
    "prompts", "gain where chosen", "gain on new prompts", "low", "high", "holds, %", "low", "high",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Choices:
    """Choose paths over few and over several prompts, many times."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")]
    """Runs of the same paths and questions, one for each prompt."""
    draws: int = 1000
    """Choices for each number of prompts."""
    output: Path | None = None
    """CSV file to write."""


def differences(directories: Sequence[str]) -> np.ndarray:
    """Read the differences [n, K, C] of all paths to the identity path."""
    runs = [Run(directory) for directory in directories]
    paths = [tuple(path) for path in runs[0].settings()["paths"]]
    plain = paths.index(identity(runs[0].manifest()["starts"][-1]["num_layers"]))
    right = read_verdicts(runs, len(paths)).astype(float)
    return np.delete(right - right[..., [plain]], plain, axis=2)


def choose(values: np.ndarray, count: int, random: np.random.Generator) -> tuple[float, float]:
    """Choose on one half of [n, K, C] over `count` prompts; return its gain there, and elsewhere.

    Of equally accurate paths one is drawn.
    """
    questions, prompts, _ = values.shape
    rows, columns = random.permutation(questions), random.permutation(prompts)
    half, some = questions // 2, (prompts + 1) // 2  # as many of seven prompts as of eight
    means = values[rows[:half], np.resize(columns[: min(count, some)], half)].mean(axis=0)
    best = random.choice(np.flatnonzero(means == means.max()))
    others = values[rows[half:]][:, columns[some:], best]
    return float(means[best]), float(others.mean())


def estimate(values: np.ndarray, draws: int) -> np.ndarray:
    """Return for each count the two gains, and the share that holds elsewhere, [counts, 3]."""
    rows = []
    for count in COUNTS:
        # a generator for each draw: the same halves for all counts
        draw = (np.random.default_rng([0, i]) for i in range(draws))
        gains = np.array([choose(values, count, random) for random in draw])
        rows.append([*gains.mean(axis=0), (gains[:, 1] >= 0).mean()])
    return np.array(rows)


def main(settings: Choices) -> None:
    values = differences(settings.runs)
    prompts = values.shape[1]
    whole = estimate(values, settings.draws)
    parts = [estimate(np.delete(values, k, axis=1), settings.draws) for k in range(prompts)]
    spread = np.array([[*part.flat, part[-1, 1] - part[0, 1]] for part in parts])
    error = np.sqrt((prompts - 1) / prompts * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0))
    reach = 100 * t.ppf(0.975, prompts - 1) * error
    table = []
    for i, (count, (before, after, holds)) in enumerate(zip(COUNTS, 100 * whole, strict=True)):
        gain, share = reach[3 * i + 1], reach[3 * i + 2]
        cells = before, after, after - gain, after + gain, holds, holds - share, holds + share
        table.append((str(count), *(f"{cell:.1f}" for cell in cells)))
    show(HEAD, table)
    change = 100 * (whole[-1, 1] - whole[0, 1])
    low, high = change - reach[-1], change + reach[-1]
    print(f"four prompts minus one: {change:+.1f} points ({low:+.1f} to {high:+.1f})")
    if settings.output is not None:
        with settings.output.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEAD, *table])


if __name__ == "__main__":
    main(tyro.cli(Choices, description=__doc__))
