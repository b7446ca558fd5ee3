"""Shares, differences and means over questions, with their intervals and tests."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr, fdtrc, nctdtrinc, stdtr, stdtrit  # a tenth of scipy.stats' time
from scipy.stats import binomtest, norm

LEVEL = 0.95  # of intervals and of tests
ALPHA = 0.05
Z = float(norm.ppf((1 + LEVEL) / 2))
DRAWN_PROMPTS = 3  # prompts from which those of a task are drawn; fewer are taken as they are


@dataclasses.dataclass(frozen=True)
class Share:
    """A proportion, `hits` of `n`; the value is NaN where n is 0."""

    hits: int
    n: int

    @classmethod
    def of(cls, mask: np.ndarray) -> "Share":
        """Count a boolean array."""
        return cls(int(np.count_nonzero(mask)), int(mask.size))

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval, NaN where n is 0."""
        if not self.n:
            return math.nan, math.nan
        low, high = binomtest(self.hits, self.n).proportion_ci(LEVEL, method="wilson")
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The share of `first` minus the share of `second`, paired over the same n questions.

    `first_only` and `second_only` count the discordant questions.
    """

    first_only: int
    second_only: int
    n: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> "Difference":
        """Count two boolean arrays over the same questions."""
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), int(first.size))

    @property
    def value(self) -> float:
        return (self.first_only - self.second_only) / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Bonett and Price (2012) for paired shares, NaN where n is 0."""
        return self.interval_at(ALPHA)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval that misses the difference with the probability `alpha`.

        It includes 0 where the exact test does not reject it, which alone would exclude it less
        often: 14 questions gained and 5 lost of 100 have p 0.064.
        """
        if not self.n:
            return math.nan, math.nan
        first = (self.first_only + 1) / (self.n + 2)
        second = (self.second_only + 1) / (self.n + 2)
        middle = first - second
        reach = float(norm.ppf(1 - alpha / 2))
        reach *= math.sqrt((first + second - middle**2) / (self.n + 2))
        low, high = max(-1.0, middle - reach), min(1.0, middle + reach)
        return (min(low, 0.0), max(high, 0.0)) if self.p > alpha else (low, high)

    @property
    def p(self) -> float:
        """The two-sided p-value of McNemar's exact test, NaN where n is 0."""
        if not self.n:
            return math.nan
        discordant = self.first_only + self.second_only
        return float(binomtest(self.first_only, discordant).pvalue) if discordant else 1.0


class Mean(NamedTuple):
    """A mean over questions with its 95 % interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Take a mean and Student's interval, which is NaN for fewer than two values."""
        if len(values) < 2:
            return cls(mean(values), (math.nan, math.nan))
        reach = stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / len(values) ** 0.5
        middle = float(values.mean())
        return cls(middle, (middle - float(reach), middle + float(reach)))


class MeanSquares(NamedTuple):
    """Mean squares of values [n, K] over questions, prompts, and their interaction."""

    questions: float
    prompts: float
    residual: float

    @classmethod
    def of(cls, values: np.ndarray) -> "MeanSquares":
        """Split the squares; all are NaN for one question, the last two for one prompt."""
        n, prompts = values.shape
        nan = math.nan
        if n < 2:
            return cls(nan, nan, nan)
        rows = values.mean(1, keepdims=True)
        columns = values.mean(0)
        squares = [prompts * rows.var(ddof=1), nan, nan]
        if prompts > 1:
            rest = ((values - rows - columns + values.mean()) ** 2).sum()
            squares[1:] = n * columns.var(ddof=1), rest / ((n - 1) * (prompts - 1))
        # 15 decimals: an F of two rounding errors is noise
        return cls(*(round(float(square), 15) for square in squares))

    @property
    def is_zero(self) -> bool:
        """Whether all values are equal."""
        return not any(square > 0 for square in self)

    def error(self, n: int, prompts: int, least: float = 0.0) -> tuple[float, float]:
        """Return the standard error of the mean, or `least`, and its degrees of freedom."""
        if prompts < DRAWN_PROMPTS:
            error = math.sqrt(self.questions / (n * prompts))
            df = n - 1.0
        else:
            # A negative component of prompts counts as 0, and their mean square as the residual's
            # in the degrees of freedom too. Falling back on those of questions alone makes
            # intervals too narrow where a few prompts agree by chance: of claims without effect on
            # 400 questions in 3 prompts, 5 points apart, p is at most 0.05 in 6.4 %, and here in
            # 3.2 %.
            prompt = max(self.prompts, self.residual)
            variance = self.questions + prompt - self.residual
            spread = self.questions**2 / (n - 1) + prompt**2 / (prompts - 1)
            spread += self.residual**2 / ((n - 1) * (prompts - 1))
            error = math.sqrt(variance / (n * prompts))
            # Satterthwaite's are too many where prompts agree by chance, which makes the error too
            # small at the same time: at p 0.0025, as of ten claims, 3.6 times as many errors as
            # stated. Their harmonic mean with those of prompts alone has at most 1.7 times as many.
            df = 2 / (spread / variance**2 + 1 / (prompts - 1)) if variance else n - 1.0
        return (least, n - 1.0) if error < least else (error, df)


@dataclasses.dataclass(frozen=True)
class Crossed:
    """The mean difference over n questions, each asked with the same K prompts, both drawn.

    A difference is the mean plus random effects of question and prompt, and a residual: balanced,
    without replication. The error is that of Clark (1973), "The language-as-fixed-effect fallacy",
    with the harmonic mean of Satterthwaite's degrees of freedom (1946) and those of the prompts
    alone, K - 1. With one or two prompts, questions alone are drawn, and everything holds in these
    prompts alone. Errors are NaN for fewer than two questions.

    Rare changes of verdicts are not seen on few questions: where all differences are of verdicts
    (-1, 0, 1), the error is at least `added`, that of the two questions, changed in opposite
    directions, which Bonett and Price (2012) add to their counts.
    """

    value: float
    n: int
    prompts: int
    squares: MeanSquares
    added: float
    alone: tuple["Crossed", ...] = ()  # of each of several prompts

    @classmethod
    def of(cls, differences: np.ndarray) -> "Crossed":
        """Estimate the mean of differences [n, K] of n questions with K prompts."""
        values = np.asarray(differences, float)
        n, prompts = values.shape
        added = math.sqrt(2) / (n + 2) if np.isin(values, (-1, 0, 1)).all() else 0.0
        squares = MeanSquares.of(values)
        columns = range(prompts) if prompts > 1 else ()
        alone = tuple(cls.of(values[:, k : k + 1]) for k in columns)
        return cls(mean(values), n, prompts, squares, added, alone)

    @property
    def by_prompt(self) -> tuple[Mean, ...]:
        """The mean with each prompt, and its interval for this prompt alone."""
        return tuple(Mean(prompt.value, prompt.interval) for prompt in self.alone or (self,))

    @functools.cached_property
    def error(self) -> tuple[float, float]:
        """The standard error and its degrees of freedom."""
        if self.n < 2:
            return math.nan, math.nan
        return self.squares.error(self.n, self.prompts, self.added)

    @property
    def se(self) -> float:
        return self.error[0]

    @property
    def df(self) -> float:
        return self.error[1]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, within -1 and 1 for verdicts."""
        return self.interval_at(ALPHA)

    @property
    def is_zero(self) -> bool:
        """Whether all differences are 0, so that there is nothing to judge an error by."""
        return self.value == 0 and self.squares.is_zero

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval that misses the mean with the probability `alpha`."""
        reach = float(stdtrit(self.df, 1 - alpha / 2)) * self.se
        limit = 1.0 if self.added else math.inf
        low, high = np.clip((self.value - reach, self.value + reach), -limit, limit)
        return float(low), float(high)

    @property
    def p(self) -> float:
        """The two-sided p-value of a mean of 0."""
        return float(2 * stdtr(self.df, -abs(quotient(self.value, self.se))))

    @property
    def interaction_p(self) -> float:
        """The p-value of the F test of equal means with all prompts, NaN for one prompt."""
        ratio = quotient(self.squares.prompts, self.squares.residual)
        return float(fdtrc(self.prompts - 1, (self.n - 1) * (self.prompts - 1), ratio))

    @property
    def prompt_sd(self) -> float:
        """The standard deviation of the mean between prompts, NaN for one prompt."""
        return self._sd(self.squares.prompts, self.n)

    @property
    def question_sd(self) -> float:
        """The standard deviation of the mean between questions, NaN for one prompt."""
        return self._sd(self.squares.questions, self.prompts)

    def _sd(self, square: float, count: int) -> float:
        return math.sqrt(np.maximum(square - self.squares.residual, 0) / count)

    def noninferior_p(self, margin: float) -> float:
        """Return the one-sided p-value of a mean of at most -margin.

        Rare changes are skewed, and `se` alone would call a loss of the margin "as good" in up to
        14 % of trials. For verdicts, the variance of the two added questions is therefore added
        to it, and p is at least that of a loss of the margin with every prompt (binomial): at most
        6 % err, and the cost is power where n is below 200.
        """
        p = float(stdtr(self.df, -quotient(self.value + margin, math.hypot(self.se, self.added))))
        if not self.added or math.isnan(p):
            return p
        lost = math.ceil(max(0.0, -self.value) * self.n - 1e-9)
        return max(p, float(bdtr(lost, self.n, margin)))

    def detectable(self, power: float = 0.8, alpha: float = ALPHA) -> float:
        """Return the smallest true mean that is shown with this power at a two-sided `alpha`."""
        critical = -stdtrit(self.df, alpha / 2)
        return float(nctdtrinc(self.df, 1 - power, critical)) * self.se


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p-values of one table for their number; NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected = list(values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def mean(values: np.ndarray) -> float:
    """Return the mean, NaN for no values."""
    return float(np.mean(values)) if values.size else math.nan


def quotient(effect: float, error: float) -> float:
    """Divide an effect by its error, which is 0 where all values are equal."""
    if error:
        return effect / error
    return math.copysign(math.inf, effect) if effect else 0.0


def number_or_none(value: Any) -> Any:
    """Replace NaN in a tree of values by None, as JSON has none."""
    if isinstance(value, dict):
        return {name: number_or_none(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return list(map(number_or_none, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
