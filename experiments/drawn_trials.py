"""Trials drawn with a known truth, many at once, and how they were decided before.

A verdict is right where a normal sum of question, prompt and answer is above a level. A path's sum
is correlated with the model's, and has an effect of its own with each prompt, as far as accuracy
is to depend on the prompt.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import bdtr, fdtrc, ndtr, ndtri, stdtr

from cola_jax.deploy.verify.verdict import Judged, Verdict, decide
from cola_jax.scoring.statistics import ALPHA, Crossed, MeanSquares

# Latent standard deviations of questions, prompts and a question's answer to one prompt, and how
# the first and last correlate between model and path: 17 % of verdicts change.
QUESTION = 1.0
PROMPT = 0.2
ANSWER = 0.5
SAME_QUESTION = 0.95
SAME_ANSWER = 0.5
CORRELATION = 0.6  # of a path's effects with prompts that are alike
SPREAD = math.sqrt(QUESTION**2 + PROMPT**2 + ANSWER**2)
CHUNK = 1_000_000  # verdicts drawn at once
MEASURING = 8  # prompts in which what one prompt has chosen is tried
NOTHING_SHARED = f"other questions in {MEASURING} other prompts"


class Truth(NamedTuple):
    """The true accuracy of a model, and of paths that are claims about it; all are shares."""

    accuracy: float
    effect: float = 0.0  # of a path, over all prompts
    prompt_sd: float = 0.0  # of the effect, between prompts
    together: int = 1  # prompts in a row whose effects correlate

    @property
    def level(self) -> float:
        """The level of the model's sums."""
        return float(ndtri(self.accuracy)) * SPREAD

    @property
    def path_level(self) -> tuple[float, float]:
        """The mean level of a path's sums and its standard deviation between prompts."""
        own = own_sd(self.accuracy + self.effect, self.prompt_sd)
        return float(ndtri(self.accuracy + self.effect)) * math.hypot(SPREAD, own), own


@functools.cache
def own_sd(accuracy: float, prompt_sd: float) -> float:
    """Return the latent sd between prompts by which accuracy has `prompt_sd` between them."""
    if not prompt_sd:
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def excess(own: float) -> float:
        level = ndtri(accuracy) * math.hypot(SPREAD, own)
        shares = ndtr((level + own * nodes) / SPREAD)
        variance = weights @ (shares - accuracy) ** 2 / weights.sum()
        return math.sqrt(variance) - prompt_sd

    return float(root_scalar(excess, bracket=(0.0, 20.0)).root)


class DrawnTrials(NamedTuple):
    """Effects of C claims in drawn trials: means and mean squares [draws, C]."""

    value: np.ndarray
    questions: np.ndarray
    prompts: np.ndarray
    residual: np.ndarray
    size: tuple[int, int]  # n and K

    @classmethod
    def of(cls, differences: np.ndarray) -> "DrawnTrials":
        """Take the mean squares of differences of verdicts [draws, C, K, n], -1, 0 or 1."""
        prompts, n = differences.shape[-2:]
        by_question = differences.sum(-2, dtype=np.int16)
        by_prompt = differences.sum(-1, dtype=np.int32)
        total = by_prompt.sum(-1)
        changed = np.count_nonzero(differences, axis=(-2, -1))
        middle = total.astype(float) ** 2 / (n * prompts)
        between = (by_question.astype(np.int32) ** 2).sum(-1) / prompts - middle
        apart = (by_prompt.astype(float) ** 2).sum(-1) / n - middle
        rest = changed - middle - between - apart
        nan = np.full(total.shape, np.nan)
        return cls(
            total / (n * prompts),
            (between / (n - 1)).round(15),
            (apart / (prompts - 1)).round(15) if prompts > 1 else nan,
            (rest / ((n - 1) * (prompts - 1))).round(15) if prompts > 1 else nan,
            (n, prompts),
        )

    @classmethod
    def joined(cls, parts: Sequence["DrawnTrials"]) -> "DrawnTrials":
        """Join draws."""
        value, questions, prompts, residual = (
            np.concatenate([part[field] for part in parts]) for field in range(4)
        )
        return cls(value, questions, prompts, residual, parts[0].size)

    def take(self, claims: int) -> "DrawnTrials":
        """Keep the first claims of each trial."""
        value, questions, prompts, residual = (field[:, :claims] for field in self[:4])
        return DrawnTrials(value, questions, prompts, residual, self.size)

    def crossed(self, draw: int) -> list[Crossed]:
        """Return the effects of the claims of one trial, as a trial estimates them."""
        n, prompts = self.size
        fields = (field[draw].tolist() for field in self[:4])
        added = math.sqrt(2) / (n + 2)
        return [
            Crossed(value, n, prompts, MeanSquares(*squares), added)
            for value, *squares in zip(*fields, strict=True)
        ]

    def verdicts(self, draw: int, margin: float, *, shorter: bool) -> list[Verdict]:
        """Decide a trial that could have shown a loss."""
        return decide([Judged(effect, shorter) for effect in self.crossed(draw)], margin)


class PValues(NamedTuple):
    """p-values of all claims [draws, C]: of effect, loss, and dependence on the prompt."""

    effect: np.ndarray
    loss: np.ndarray
    depends: np.ndarray

    def take(self, claims: int) -> "PValues":
        """Keep the first claims of each trial."""
        return PValues(*(field[:, :claims] for field in self))

    @property
    def as_good(self) -> np.ndarray:
        """Whether the outcome is "as good on fewer layers", by corrected p-values."""
        return (self.loss <= ALPHA) & (self.effect > ALPHA)


def p_values_before(trials: DrawnTrials, margin: float) -> PValues:
    """Return the p-values of single claims as before: by Satterthwaite's degrees of freedom."""
    n, prompts = trials.size
    error, df = error_before(trials)
    effect = 2 * stdtr(df, -np.abs(trials.value) / error)
    added = math.sqrt(2) / (n + 2)
    loss = stdtr(df, -(trials.value + margin) / np.hypot(error, added))
    lost = np.ceil(np.maximum(-trials.value, 0) * n - 1e-9)
    loss = np.maximum(loss, bdtr(lost, n, margin))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(trials.prompts > 0, trials.prompts / trials.residual, trials.prompts)
    return PValues(effect, loss, fdtrc(prompts - 1, (n - 1) * (prompts - 1), ratio))


def error_before(trials: DrawnTrials) -> tuple[np.ndarray, np.ndarray]:
    """Return standard errors and Satterthwaite's degrees of freedom; two prompts were draws."""
    n, prompts = trials.size
    variance = trials.questions
    df = np.full(variance.shape, n - 1.0)
    if prompts > 1:
        prompt = np.maximum(trials.prompts, trials.residual)
        variance = trials.questions + prompt - trials.residual
        spread = trials.questions**2 / (n - 1) + prompt**2 / (prompts - 1)
        spread += trials.residual**2 / ((n - 1) * (prompts - 1))
        df = np.divide(variance**2, spread, out=df, where=spread > 0)
    error = np.sqrt(variance / (n * prompts))
    least = math.sqrt(2) / (n + 2)
    return np.maximum(error, least), np.where(error < least, n - 1.0, df)


def decided_before(single: PValues) -> PValues:
    """Correct p-values as before: Holm over effects and over losses, dependence as it was."""
    return PValues(holm(single.effect), holm(single.loss), single.depends)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values [draws, C] for the C of a trial."""
    order = np.argsort(p_values, axis=1)
    ranked = np.take_along_axis(p_values, order, 1) * np.arange(p_values.shape[1], 0, -1)
    ranked = np.minimum(np.maximum.accumulate(ranked, axis=1), 1)
    corrected = np.empty_like(ranked)
    np.put_along_axis(corrected, order, ranked, 1)
    return corrected


def decided(
    trials: DrawnTrials, margin: float, single: PValues, watched: np.ndarray, *, shorter: bool
) -> PValues:
    """Correct p-values as a trial does, where they could be significant; others are 1.

    `single` are those of before: the degrees of freedom have only become fewer, so that none is
    smaller now, and Holm's first step fails where it did. Of trials that are not `watched` [draws],
    all are 1 as well.
    """
    every = np.concatenate(single if shorter else (single.effect, single.depends), axis=1)
    draws, claims = trials.value.shape
    corrected = np.ones((3, draws, claims))
    tests = np.count_nonzero(~np.isnan(every), axis=1)  # one prompt has no test of dependence
    first_step = np.nanmin(every, axis=1) * tests <= ALPHA
    for draw in np.flatnonzero(first_step & watched).tolist():
        for claim, verdict in enumerate(trials.verdicts(draw, margin, shorter=shorter)):
            p = verdict.p, verdict.noninferior_p, verdict.interaction_p
            corrected[:, draw, claim] = np.nan_to_num(p, nan=1.0)
    return PValues(*corrected)


def draw_trials(
    draws: int, size: tuple[int, int], claims: int, truths: Sequence[Truth]
) -> dict[Truth, DrawnTrials]:
    """Draw trials of `size` questions and prompts for each truth, all by the same random numbers.

    The claims of a trial share the model's verdicts.
    """
    n, prompts = size
    random = np.random.default_rng([n, prompts])
    chunk = max(1, CHUNK // (n * prompts * claims))
    parts: dict[Truth, list[DrawnTrials]] = {truth: [] for truth in truths}
    for first in range(0, draws, chunk):
        model, paths, own = draw_sums(min(chunk, draws - first), size, claims, random)
        common = random.standard_normal(own.shape, dtype=np.float32)
        for truth in truths:
            level, sd = truth.path_level
            after = paths > -(level + sd * alike(own, common, truth.together))
            before = model > -truth.level
            parts[truth].append(DrawnTrials.of(after.astype(np.int8) - before))
    return {truth: DrawnTrials.joined(each) for truth, each in parts.items()}


def draw_chosen(draws: int, n: int, claims: int, truth: Truth) -> dict[str, DrawnTrials]:
    """Draw trials of the claim that is best on n questions in one prompt, on these and others."""
    random = np.random.default_rng([n, claims])
    size = (2 * n, 1 + MEASURING)
    chunk = max(1, CHUNK // (size[0] * size[1] * claims))
    tried: dict[str, list[DrawnTrials]] = {}
    for first in range(0, draws, chunk):
        model, paths, own = draw_sums(min(chunk, draws - first), size, claims, random)
        level, sd = truth.path_level
        every = (paths > -(level + sd * own)).astype(np.int8) - (model > -truth.level)
        best = every[:, :, 0, :n].mean(-1).argmax(1)
        chosen = every[np.arange(len(best)), best][:, None]  # [draws, 1, K, 2 n]
        rows = {
            "the same questions in the same prompt": chosen[:, :, :1, :n],
            f"the same questions in {MEASURING} other prompts": chosen[:, :, 1:, :n],
            NOTHING_SHARED: chosen[:, :, 1:, n:],
        }
        for where, differences in rows.items():
            tried.setdefault(where, []).append(DrawnTrials.of(differences))
    return {where: DrawnTrials.joined(parts) for where, parts in tried.items()}


def alike(own: np.ndarray, common: np.ndarray, together: int) -> np.ndarray:
    """Correlate effects [draws, C, K, 1] within groups of prompts."""
    if together == 1:
        return own
    groups = np.arange(own.shape[2]) // together * together
    return math.sqrt(CORRELATION) * common[:, :, groups] + math.sqrt(1 - CORRELATION) * own


def draw_sums(
    draws: int, size: tuple[int, int], claims: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw sums of the model [draws, 1, K, n] and paths [draws, C, K, n].

    Returns as well the standard effects of paths with each prompt [draws, C, K, 1].
    """
    n, prompts = size

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((draws, *shape), dtype=np.float32)

    question = QUESTION * normal(1, 1, n)
    answer = ANSWER * normal(1, prompts, n)
    prompt = PROMPT * normal(1, prompts, 1)
    model = question + answer + prompt
    rest = QUESTION * math.sqrt(1 - SAME_QUESTION**2) * normal(claims, 1, n)
    changed = ANSWER * math.sqrt(1 - SAME_ANSWER**2) * normal(claims, prompts, n)
    paths = changed + (SAME_QUESTION * question + rest) + (SAME_ANSWER * answer + prompt)
    return model, paths, normal(claims, prompts, 1)


def percent(mask: np.ndarray) -> str:
    """Format a share of trials."""
    return f"{100 * np.mean(mask):.1f}"
