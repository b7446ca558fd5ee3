"""Error rates of a claim that is tried again: with more questions, or without the other claims.

`python -m experiments.tries_calibration` draws claims without an effect, or with a loss of the
margin, and tries them until a verdict suits: on 100, 200, 400 and 800 questions, each time all
questions of before among them; or first as one of six, then among the best three, then the best
alone, on the same rows. It writes `experiments/results/tries-calibration.csv`: how often some
verdict is wrong as trials were decided before; as they are now where tries are not counted; where a
second one on the same questions is refused; where it is allowed, and the budget counts the tries;
and where each try takes new questions and prompts.
"""

import csv
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tyro

from cola_jax.deploy.verify.earlier_tries import weigh
from cola_jax.deploy.verify.verdict import Judged, decide, number_of_tests
from cola_jax.scoring.statistics import ALPHA
from experiments.drawn_trials import (
    DrawnTrials,
    Truth,
    decided_before,
    draw_sums,
    p_values_before,
    percent,
)
from experiments.tables import show

MARGIN = 0.03
ACCURACY = 0.45  # of the model
PROMPTS = 8
GROWN = (100, 200, 400, 800)  # questions
CLAIMS = (6, 3, 1)  # of which the best are kept
QUESTIONS = 200  # of the claims that are dropped
PROMPT_SDS = (0.03, 0.05)
CHUNK = 100  # claims in memory
HEAD = (
    "tried again", "truth", "points between prompts", "before, %", "now, not counted, %",
    "refused, %", "allowed and counted, %", "new questions, before, %",
    "new questions, not counted, %", "new questions, counted, %",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TriesCalibration:
    """Try claims with a known truth again and again."""

    draws: int = 2000
    """Claims, or sets of claims, of each row: a multiple of 100."""
    output: str = "experiments/results/tries-calibration.csv"
    """CSV file to write."""


class Wrong(NamedTuple):
    """The effect of claims, and the verdicts on them that are wrong."""

    name: str
    effect: float
    outcomes: frozenset[str]

    def single(self, trials: DrawnTrials) -> np.ndarray:
        """Return the p-values [draws, C] of such a verdict on single claims, as before."""
        p_values = p_values_before(trials, MARGIN)
        return p_values.loss if self.effect else p_values.effect

    def before(self, trials: DrawnTrials) -> np.ndarray:
        """Return whether some verdict of each trial [draws] was wrong before."""
        corrected = decided_before(p_values_before(trials, MARGIN))
        wrong = corrected.as_good if self.effect else corrected.effect <= ALPHA
        return np.logical_or.reduce(wrong, axis=1)

    def now(self, trials: DrawnTrials, tries: float) -> np.ndarray:
        """Return whether some verdict of each trial is wrong now, after other tries.

        p-values have only become larger, so that none is wrong where Holm's first step failed.
        """
        claims = trials.value.shape[1]
        wrong = np.zeros(len(trials.value), bool)
        lowest = self.single(trials).min(1)
        for draw in np.flatnonzero(lowest * claims <= ALPHA).tolist():
            judged = [Judged(effect, True, tries=tries) for effect in trials.crossed(draw)]
            verdicts = decide(judged, MARGIN)
            wrong[draw] = any(verdict.outcome in self.outcomes for verdict in verdicts)
        return wrong


TRUTHS = (
    Wrong("no effect: better or worse", 0.0, frozenset({"better", "worse"})),
    Wrong("a loss of 3 points: as good", -MARGIN, frozenset({"as good on fewer layers"})),
)
# draws the trials of claims with this truth, one after the other, on new questions or the same ones
Make = Callable[[Wrong, float, bool, np.random.Generator], list[DrawnTrials]]


def differences(
    n: int, claims: int, wrong: Wrong, sd: float, random: np.random.Generator
) -> np.ndarray:
    """Draw differences of verdicts [draws, C, K, n] of claims on the same questions."""
    truth = Truth(ACCURACY, wrong.effect, sd)
    model, paths, own = draw_sums(CHUNK, (n, PROMPTS), claims, random)
    level, own_sd = truth.path_level
    return (paths > -(level + own_sd * own)).astype(np.int8) - (model > -truth.level)


def grown(wrong: Wrong, sd: float, new: bool, random: np.random.Generator) -> list[DrawnTrials]:
    """Draw trials of a claim on more and more questions."""
    if new:
        return [DrawnTrials.of(differences(n, 1, wrong, sd, random)) for n in GROWN]
    rows = differences(GROWN[-1], 1, wrong, sd, random)
    return [DrawnTrials.of(rows[..., :n]) for n in GROWN]


def dropped(wrong: Wrong, sd: float, new: bool, random: np.random.Generator) -> list[DrawnTrials]:
    """Draw trials of fewer and fewer claims, those kept that looked best in the last trial."""
    first = DrawnTrials.of(differences(QUESTIONS, CLAIMS[0], wrong, sd, random))
    kept = np.tile(np.arange(CLAIMS[0]), (CHUNK, 1))
    trials = [first]
    whole = first
    for number in CLAIMS[1:]:
        order = np.argsort(wrong.single(trials[-1]), axis=1)[:, :number]
        kept = np.take_along_axis(kept, order, 1)
        if new:
            whole = DrawnTrials.of(differences(QUESTIONS, CLAIMS[0], wrong, sd, random))
        trials.append(take(whole, kept))
    return trials


def take(trials: DrawnTrials, kept: np.ndarray) -> DrawnTrials:
    """Keep claims [draws, number] of each trial."""
    value, questions, prompts, residual = (
        np.take_along_axis(field, kept, 1) for field in trials[:4]
    )
    return DrawnTrials(value, questions, prompts, residual, trials.size)


def some_wrong(trials: Sequence[DrawnTrials], wrong: Wrong, *, same: bool) -> np.ndarray:
    """Return whether a verdict of trials one after the other is wrong, where tries count."""
    found = np.zeros(len(trials[0].value), bool)
    before: list[tuple[int, bool]] = []  # tests of earlier trials
    for trial in trials:
        tests = trial.value.shape[1] * number_of_tests(PROMPTS, shorter=True)
        found |= wrong.now(trial, weigh(before, tests))
        before.append((tests, same))
    return found


def any_of(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether one of several is true of each draw."""
    return np.logical_or.reduce(masks)


def row(name: str, make: Make, wrong: Wrong, sd: float, draws: int) -> list[str]:
    """Tabulate how often some verdict is wrong."""
    parts = []
    for chunk in range(draws // CHUNK):
        seed = [len(name), round(100 * sd), round(-100 * wrong.effect), chunk]
        same = make(wrong, sd, False, np.random.default_rng([*seed, 0]))
        new = make(wrong, sd, True, np.random.default_rng([*seed, 1]))
        parts.append(
            [
                any_of([wrong.before(trial) for trial in same]),
                any_of([wrong.now(trial, 0) for trial in same]),
                wrong.now(same[0], 0),
                some_wrong(same, wrong, same=True),
                any_of([wrong.before(trial) for trial in new]),
                any_of([wrong.now(trial, 0) for trial in new]),
                some_wrong(new, wrong, same=False),
            ]
        )
    shares = map(percent, np.concatenate(parts, axis=1))
    return [name, wrong.name, f"{100 * sd:.0f}", *shares]


def main(settings: TriesCalibration) -> None:
    names: dict[str, Make] = {
        "100, 200, 400, 800 questions": grown,
        "6, 3, 1 claims of 200 questions": dropped,
    }
    table = [
        row(name, make, wrong, sd, settings.draws)
        for name, make in names.items()
        for wrong in TRUTHS
        for sd in PROMPT_SDS
    ]
    with open(settings.output, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *table])
    show(HEAD, table)


if __name__ == "__main__":
    main(tyro.cli(TriesCalibration, description=__doc__))
