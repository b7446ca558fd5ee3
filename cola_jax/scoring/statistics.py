"""Shares, differences and means over questions, with their intervals and tests."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm, t

LEVEL = 0.95
Z = float(norm.ppf((1 + LEVEL) / 2))


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

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Bonett and Price (2012) for paired shares, NaN where n is 0."""
        if not self.n:
            return math.nan, math.nan
        first = (self.first_only + 1) / (self.n + 2)
        second = (self.second_only + 1) / (self.n + 2)
        middle = first - second
        reach = Z * math.sqrt((first + second - middle**2) / (self.n + 2))
        return max(-1.0, middle - reach), min(1.0, middle + reach)

    @property
    def p(self) -> float:
        """The two-sided p-value of McNemar's exact test, NaN where n is 0."""
        if not self.n:
            return math.nan
        discordant = self.first_only + self.second_only
        return float(binomtest(self.first_only, discordant).pvalue) if discordant else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the difference, which is that in one prompt, as a number from 0 to 1."""
        fields = {"difference": self.value, "interval": [*self.interval], "p": self.p}
        return fields | {"n": self.n, "prompts": 1}


@dataclasses.dataclass(frozen=True)
class Effect:
    """Accuracy before and after a change of the model, on the same questions."""

    before: Share
    after: Share
    difference: "Difference | Crossed"  # Crossed over several prompts

    @classmethod
    def of(cls, after: np.ndarray, before: np.ndarray) -> "Effect":
        """Compare right answers [n], or those in each of K prompts [n, K], with the model's."""
        difference: Difference | Crossed
        if after.ndim == 2 and after.shape[1] > 1:
            difference = Crossed.of(after.astype(float) - before)
        else:
            difference = Difference.of(after.reshape(-1), before.reshape(-1))
        return cls(Share.of(before), Share.of(after), difference)

    def to_json(self) -> dict[str, Any]:
        """Return shares and their difference as numbers from 0 to 1."""
        shares = {"before": self.before.value, "after": self.after.value}
        return shares | self.difference.to_json()


class Mean(NamedTuple):
    """A mean over questions with its 95 % interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Take a mean and Student's interval, which is NaN for fewer than two values."""
        if len(values) < 2:
            return cls(mean(values), (math.nan, math.nan))
        reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        middle = float(values.mean())
        return cls(middle, (middle - float(reach), middle + float(reach)))


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p-values of one table for their number; NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, largest = list(values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def mean(values: np.ndarray) -> float:
    """Return the mean, NaN for no values."""
    return float(np.mean(values)) if values.size else math.nan


def number_or_none(value: Any) -> Any:
    """Replace NaN in a tree of values by None, as JSON has none."""
    if isinstance(value, dict):
        return {name: number_or_none(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return list(map(number_or_none, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
