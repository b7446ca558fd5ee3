"""How many questions and prompts a trial takes to show a difference."""

import bisect
import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

from scipy.stats import nct, t

from cola_jax.errors import InputError, count
from cola_jax.scoring.statistics import ALPHA, DRAWN_PROMPTS, Crossed, MeanSquares

POWER = 0.8
LEAST_QUESTIONS = 20  # with fewer, the test for one prompt errs in up to 8.5 % of trials
MOST_QUESTIONS = 100_000
MOST_PROMPTS = 1_000


@dataclasses.dataclass(frozen=True)
class Components:
    """Standard deviations of a path's effect on accuracy, as shares.

    The defaults are those of SmolLM2 without its last layer on 160 sums after four pairs of shots:
    one verdict in eight changes.
    """

    prompt_sd: float = 0.05
    question_sd: float = 0.15
    residual_sd: float = 0.32

    @classmethod
    def of(cls, trial: Crossed) -> "Components":
        """Estimate them from an earlier trial with at least two questions and prompts."""
        residual = math.sqrt(trial.squares.residual)
        return cls(trial.prompt_sd, trial.question_sd, residual)

    def power(self, difference: float, questions: int, prompts: int, alpha: float = ALPHA) -> float:
        """Return how often a true difference is shown at a two-sided `alpha` (noncentral t)."""
        prompt = self.prompt_sd**2
        question = self.question_sd**2
        residual = self.residual_sd**2
        squares = MeanSquares(
            prompts * question + residual, questions * prompt + residual, residual
        )
        error, df = squares.error(questions, prompts, math.sqrt(2) / (questions + 2))
        critical = float(t.isf(alpha / 2, df))
        return float(nct.sf(critical, df, abs(difference) / error))


class Plan(NamedTuple):
    """The questions that a trial takes, None where no number suffices with its prompts.

    `least_prompts` are the fewest with which some number of questions does, None for over 1,000.
    """

    questions: int | None
    least_prompts: int | None


def plan(
    difference: float, prompts: int, components: Components = Components(), tests: int = 1
) -> Plan:
    """Return how many questions show a difference (a share) four times in five.

    `tests` are those of the trial, for which p-values are corrected. With one or two prompts, the
    plan is for these alone: differences between prompts do not count.
    """
    if not 0 < abs(difference) <= 1:
        raise InputError(
            f"a difference of {100 * difference:g} points cannot be planned for: pass the smallest "
            "that matters to you, above 0 and at most 100 points."
        )
    alpha = ALPHA / tests
    return Plan(
        first(
            range(LEAST_QUESTIONS, MOST_QUESTIONS + 1),
            lambda n: components.power(difference, n, prompts, alpha),
        ),
        first(
            range(DRAWN_PROMPTS, MOST_PROMPTS + 1),
            lambda k: components.power(difference, MOST_QUESTIONS, k, alpha),
        ),
    )


def first(sizes: range, power: Callable[[int], float]) -> int | None:
    """Return the first size with enough power, which grows with the size; None for none."""
    at = bisect.bisect_left(sizes, POWER, key=power)
    return sizes[at] if at < len(sizes) else None


def check_size(
    planned: Plan, margin: float, questions: int, prompts: int, unit: str = "points"
) -> None:
    """Raise InputError for a trial that is too small for its margin, in hundreds of a unit."""
    if planned.questions is not None and questions >= planned.questions:
        return
    size = f"{count(questions, 'question')} in {count(prompts, 'prompt')}"
    if planned.questions is not None:
        need = f"take {planned.questions:,} questions, a"
    elif planned.least_prompts is not None:
        need = f"no number of questions suffices: take {planned.least_prompts} prompts or more, a"
    else:
        need = "no number of questions and prompts suffices: take a"
    raise InputError(
        f"{size} would not show a difference of {100 * margin:g} {unit}, the margin, four times in "
        f"five: {need} larger --margin, or --pilot for figures without a verdict (--power plans a "
        "trial; --variances plans it by the variances of a pilot)."
    )
