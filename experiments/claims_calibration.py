"""Error rates of verdicts about claims where the truth is known, with one prompt and several.

`python -m experiments.claims_calibration` draws verdicts of a model and of a path on questions
crossed with prompts, and writes `experiments/results/claims-calibration.csv`: how often a claim
without an effect is called better or worse, how often the 95 % interval covers the truth, how often
an effect is shown, and how often a loss of the margin is called "as good". Each estimate is
compared with the interval of questions alone, at equal numbers of evaluations.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tyro
from scipy.stats import norm

from cola_jax.scoring.statistics import Crossed, Difference, Mean
from experiments.paper.results import show

DESIGNS = ((8, 100), (4, 200), (3, 267), (1, 800), (8, 200), (4, 400), (3, 533), (1, 1600))
PROMPT_SDS = (0.03, 0.05)
EFFECTS = (0.03, 0.06, 0.10)
MARGIN = 0.03
P = 0.05
ACCURACY = 0.45  # of the model
# Latent standard deviations of questions, prompts and a question's answer to one prompt, and how
# the first and last correlate between model and path: 17 % of verdicts change.
QUESTION, PROMPT, ANSWER = 1.0, 0.2, 0.5
SAME_QUESTION, SAME_ANSWER = 0.95, 0.5
CHUNK = 250  # draws in memory
HEAD = (
    "prompts", "questions", "points between prompts", "interval of",
    "no effect: better or worse, %", "95 % interval covers, %",
    *(f"{100 * effect:.0f} points: shown, %" for effect in EFFECTS),
    "loss of 3 points: as good, %", "depends on the prompt, %", "half width, points",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClaimsCalibration:
    """Draw claims with a known truth, and try them."""

    draws: int = 2000
    """Claims of each row and effect."""
    output: str = "experiments/results/claims-calibration.csv"
    """CSV file to write."""


class Trials(NamedTuple):
    """Intervals [draws, 2] and p-values [draws] of claims of one effect."""

    crossed: np.ndarray
    questions_alone: np.ndarray
    noninferior_p: np.ndarray
    interaction_p: np.ndarray


def draw(
    count: int, n: int, prompts: int, prompt_sd: float, effect: float, random: np.random.Generator
) -> np.ndarray:
    """Draw differences of verdicts [count, n, prompts] with a mean of `effect` over all prompts.

    A verdict is right where a normal sum of question, prompt and answer is above 0. The path's sum
    is correlated with the model's, and has an effect of its own with each prompt.
    """

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((count, *shape), dtype=np.float32)

    def both(scale: float, same: float, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        first = normal(*shape)
        return scale * first, scale * (same * first + math.sqrt(1 - same**2) * normal(*shape))

    question, changed_question = both(QUESTION, SAME_QUESTION, n, 1)
    answer, changed_answer = both(ANSWER, SAME_ANSWER, n, prompts)
    prompt = PROMPT * normal(1, prompts)
    spread = math.sqrt(QUESTION**2 + PROMPT**2 + ANSWER**2)
    quantile = norm.ppf(ACCURACY + effect)
    own_sd = prompt_sd * spread / norm.pdf(quantile)  # of the path's prompts, as latent
    before = norm.ppf(ACCURACY) * spread + question + prompt + answer > 0
    level = quantile * math.hypot(spread, own_sd) + own_sd * normal(1, prompts)
    after = level + changed_question + prompt + changed_answer > 0
    return after.astype(np.int8) - before


def trials(settings: ClaimsCalibration, n: int, prompts: int, sd: float, effect: float) -> Trials:
    """Try all claims of one effect."""
    random = np.random.default_rng([n, prompts, round(100 * sd), round(100 * (1 + effect))])
    sizes = [CHUNK] * (settings.draws // CHUNK) + [settings.draws % CHUNK]
    drawn = (claim for size in sizes for claim in draw(size, n, prompts, sd, effect, random))
    tried = [(Crossed.of(claim), questions_alone(claim)) for claim in drawn]
    return Trials(
        np.array([crossed.interval for crossed, _ in tried]),
        np.array([interval for _, interval in tried]),
        np.array([crossed.noninferior_p(MARGIN) for crossed, _ in tried]),
        np.array([crossed.interaction_p for crossed, _ in tried]),
    )


def questions_alone(differences: np.ndarray) -> tuple[float, float]:
    """Return the interval of questions alone: paired shares, or means over several prompts."""
    n, prompts = differences.shape
    if prompts > 1:
        return Mean.of(differences.mean(1)).interval
    return Difference(int((differences > 0).sum()), int((differences < 0).sum()), n).interval


def rows(settings: ClaimsCalibration, prompts: int, n: int, sd: float) -> Iterator[list[str]]:
    """Tabulate one design by both intervals; one prompt has only that of questions alone."""
    by_effect = {
        effect: trials(settings, n, prompts, sd, effect) for effect in (-MARGIN, 0.0, *EFFECTS)
    }
    for at, name in enumerate(("questions and prompts", "questions alone")):
        if prompts == 1 and at == 0:
            continue
        low = {effect: tried[at][:, 0] for effect, tried in by_effect.items()}
        high = {effect: tried[at][:, 1] for effect, tried in by_effect.items()}
        covered = [(low[effect] <= effect) & (effect <= high[effect]) for effect in by_effect]
        shown = [(low[effect] > 0) | (high[effect] < 0) for effect in (0.0, *EFFECTS)]
        as_good = by_effect[-MARGIN].noninferior_p <= P
        apart = by_effect[0.0].interaction_p <= P
        yield [
            f"{prompts}", f"{n}", f"{100 * sd:.0f}", name, percent(shown[0]),
            percent(np.array(covered)), *map(percent, shown[1:]),
            percent(as_good) if at == 0 or prompts == 1 else "",
            percent(apart) if at == 0 else "",
            f"{50 * np.median(high[0.0] - low[0.0]):.1f}",
        ]  # fmt: skip


def percent(mask: np.ndarray) -> str:
    """Format a share of trials."""
    return f"{100 * mask.mean():.1f}"


def main(settings: ClaimsCalibration) -> None:
    table = [
        row for sd in PROMPT_SDS for prompts, n in DESIGNS for row in rows(settings, prompts, n, sd)
    ]
    with open(settings.output, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *table])
    show(HEAD, table)


if __name__ == "__main__":
    main(tyro.cli(ClaimsCalibration, description=__doc__))
