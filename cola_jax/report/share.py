"""`Share`: successes among trials, and how far chance alone could have moved them."""

import dataclasses
import functools
import math

import numpy as np
from scipy.stats import binomtest, norm

LEVEL = 0.95
Z = float(norm.ppf((1 + LEVEL) / 2))

NOTHING = "–"  # what is written where there is nothing to count


@dataclasses.dataclass(frozen=True)
class Share:
    """`hits` of `n`; the value is NaN where n is 0."""

    hits: int
    n: int

    @classmethod
    def of(cls, mask: np.ndarray) -> "Share":
        """Counts a boolean array."""
        return cls(int(np.count_nonzero(mask)), int(mask.size))

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
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
    """The share of `first` minus that of `second`, both seen on the same n questions.

    `first_only` and `second_only` count the questions that have one of the two; those that have
    both or neither say nothing about the difference.
    """

    first_only: int
    second_only: int
    n: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> "Difference":
        """Counts two boolean arrays over the same questions."""
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), int(first.size))

    @property
    def value(self) -> float:
        """The difference, -1 to 1."""
        return (self.first_only - self.second_only) / self.n if self.n else math.nan

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval for paired shares of Bonett and Price (2012), NaN where n is 0."""
        if not self.n:
            return math.nan, math.nan
        first = (self.first_only + 1) / (self.n + 2)
        second = (self.second_only + 1) / (self.n + 2)
        middle = first - second
        reach = Z * math.sqrt((first + second - middle**2) / (self.n + 2))
        return max(-1.0, middle - reach), min(1.0, middle + reach)


def percent(value: float) -> str:
    """Writes a share with one decimal; what is neither none nor all never reads as 0 or 100 %."""
    if math.isnan(value):
        return NOTHING
    text = f"{100 * value:.1f} %"
    if text == "0.0 %" and value > 0:
        return "<0.1 %"
    if text == "100.0 %" and value < 1:
        return ">99.9 %"
    return text


def points(value: float) -> str:
    """Writes a difference of shares in percentage points, with its sign."""
    return NOTHING if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def number(value: float, decimals: int = 1) -> str:
    """Writes a mean."""
    return NOTHING if math.isnan(value) else f"{value:.{decimals}f}"


def between(interval: tuple[float, float], signed: bool = False) -> str:
    """Writes an interval of shares in per cent, or of differences in percentage points."""
    low, high = interval
    if math.isnan(low):
        return ""
    if signed:
        return f"{points(low)} to {points(high)}"
    return f"{100 * low:.1f} to {100 * high:.1f}"
