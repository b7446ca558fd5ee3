"""`Net`: how much more often searches reach gold than wrong answers that are as likely to be gold.

Gold is the model's second choice on most questions that it gets wrong, which alone makes it easier
to reach. So the null hypothesis is that gold is drawn among a question's targets by a `Preference`.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import softmax
from scipy.stats import poisson_binom

from cola_jax.scoring.preference import (
    Preference,
    Targets,
    residuals,
    weighted_mean,
    weighted_variance,
)
from cola_jax.scoring.statistics import ALPHA, LEVEL

DRAWS = 10_000  # of gold among the targets of each question
MOST_DRAWN = 4_000_000  # targets drawn in all, which bounds time and memory
INFORMATIVE = 10  # questions below which no interval is given
FAR = 100.0  # beta beyond which no weight is left to move
NO_INTERVAL = (math.nan, math.nan)


class Net(NamedTuple):
    """How much more often gold is reached than by control searches and by preference.

    The value is a mean over questions of gold's hit minus that of a control, -1 to 1, where a
    question counts by the chance that gold is another of its targets.
    """

    value: float  # without the part that the covariates explain
    interval: tuple[float, float]  # NaN for fewer than `INFORMATIVE` informative questions
    p: float  # two-sided
    n: int
    reached: int  # questions on which gold was reached, of the second run in a comparison
    expected: float  # the number of them by preference alone
    by_chance: tuple[float, float]  # between which 95 % of these numbers lie, by preference alone
    informative: int  # questions of which some targets were reached, and others not
    effective: float  # equally informative number of questions with equally likely targets
    scale: float  # questions, each counted by the chance that gold is another of its targets

    @property
    def difference(self) -> float:
        """Questions reached beyond the expected ones, as a share of all n."""
        return (self.reached - self.expected) / self.n if self.n else math.nan

    @property
    def difference_interval(self) -> tuple[float, float]:
        """The interval of `difference`."""
        share = self.scale / self.n if self.n else math.nan
        low, high = self.interval
        return low * share, high * share

    @property
    def undecided(self) -> bool:
        """Whether preference alone decides which target is gold, so that no test is possible."""
        return self.effective < INFORMATIVE <= self.informative

    @classmethod
    def of(
        cls,
        targets: Targets,
        preference: Preference | None = None,
        *,
        before: np.ndarray | None = None,
        alpha: float = ALPHA,
        quick: bool = False,
    ) -> "Net":
        """Test hits against gold drawn by a preference, the targets' own by default.

        The interval inverts the test, over all effects that multiply the odds of targets reached.

        Args:
          targets: of n questions.
          preference: of another run of the model.
          before: [n, J], hits of other searches for the same targets, to test the change.
          alpha: the chance that the interval misses the effect, a share of it among several tests.
          quick: skip the interval, and make fewer draws.
        """
        compared = targets.there.sum(axis=1) > 1
        targets = targets.take(compared)
        values = targets.hits.astype(float)
        if before is not None:
            values = values - before[compared]
        if not len(values):
            return cls(math.nan, NO_INTERVAL, math.nan, 0, 0, 0.0, NO_INTERVAL, 0, 0.0, 0.0)
        there = targets.there
        weight = (preference or targets.preference()).weights(targets)
        differ = (there & (values != values[:, :1])).any(axis=1)
        alone = (weight**2).sum(axis=1)
        scale = float((1 - alone).sum())
        draws = DRAWS // 5 if quick else DRAWS
        known = Drawn(values, targets.covariates if targets.weighted else None, weight, draws=draws)
        chances = weighted_mean(weight, targets.hits)
        net = cls(
            value=known.observed / scale if scale > 0 else math.nan,
            interval=NO_INTERVAL,
            p=known.p(),
            n=len(values),
            reached=int(targets.hits[:, 0].sum()),
            expected=float(chances.sum()),
            by_chance=NO_INTERVAL,
            informative=int(np.count_nonzero(differ)),
            effective=float(((1 - alone) / (1 - 1 / there.sum(axis=1))).sum()),
            scale=scale,
        )
        if min(net.informative, net.effective) < INFORMATIVE and before is None:
            return net._replace(by_chance=number_by_chance(chances))
        # beside the test, which regards the covariates of gold itself
        low, high = (min(max(0.0, net.reached + bound), net.n) for bound in known.by_chance())
        expected = min(max(0.0, net.reached - known.observed), net.n)
        net = net._replace(expected=expected, by_chance=(low, high))
        if quick or min(net.informative, net.effective) < INFORMATIVE:
            return net
        low, high = (bound / scale for bound in known.interval(alpha))
        return net._replace(interval=(max(-1.0, low), min(1.0, high)))


def number_by_chance(chances: np.ndarray) -> tuple[float, float]:
    """Return the bounds of 95 % of the numbers of successes, by their chances [n]."""
    chances = np.append(chances, 0.0)  # which adds none, as there may be no other
    numbers = np.stack([1 - chances, chances], axis=1)  # [n, 2], the distribution of each
    while len(numbers) > 1:  # of the sums of two; by halves, so that n may be 100,000
        if len(numbers) % 2:
            numbers = np.concatenate([numbers, np.eye(1, numbers.shape[1])])  # always 0
        numbers = fftconvolve(numbers[::2], numbers[1::2], axes=1)
    low, high = np.searchsorted(np.cumsum(numbers[0]), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return float(low), float(min(high, len(chances) - 1))


@functools.lru_cache(maxsize=2)
def uniform(draws: int, n: int) -> np.ndarray:
    """Draw numbers [draws, n] between 0 and 1, the same in every test of n questions."""
    return np.random.default_rng(0).random((draws, n), np.float32)


class Drawn:
    """The sum of a value over n questions' gold targets, where gold is drawn.

    Weights are multiplied by exp(beta * value), so beta = 0 is the hypothesis, and larger ones are
    searches that reach gold more often than its controls.

    Values are first made independent of the covariates. The sum then hardly depends on their
    coefficients, so its distribution is right although these were fitted on the same questions, and
    varies less; by how much too little, the degrees of freedom of the fit say, as in a regression.
    """

    def __init__(
        self, values: np.ndarray, covariates: np.ndarray | None, weight: np.ndarray, *, draws: int
    ):
        """Take values [n, J], with their covariates [n, J, K] if there are any, and weights."""
        self.exact = covariates is None and bool(np.isin(values, (0, 1)).all())
        self.spread = 1.0
        if covariates is not None:
            values, fitted = residuals(values, covariates, weight)
            free = np.count_nonzero(weight) - len(weight)
            self.spread = math.sqrt(free / max(free - fitted, 1))
        apart = values - weighted_mean(weight, values)[:, None]
        self.observed = float(apart[:, 0].sum())
        self.reached = int(values[:, 0].sum()) if self.exact else 0
        order = np.argsort(np.where(weight > 0, apart, np.inf), axis=1)
        self.values, self.apart, self.weight = (
            np.take_along_axis(each, order, axis=1) for each in (values, apart, weight)
        )
        if not self.exact:
            draws = min(draws, max(1000, MOST_DRAWN // len(values)))
            self.uniform = uniform(draws, len(values))

    def raised(self, beta: float) -> np.ndarray:
        """Return the weights [n, J] at beta."""
        with np.errstate(divide="ignore"):
            return softmax(np.log(self.weight) + beta * self.apart, axis=1)

    def tails(self, beta: float = 0.0) -> tuple[float, float]:
        """Return the chances of a sum of at least, and of at most, the observed one."""
        weight = self.raised(beta)
        if self.exact:
            count = poisson_binom(weighted_mean(weight, self.values).clip(0, 1))
            return float(count.sf(self.reached - 1)), float(count.cdf(self.reached))
        sums, slack = self.draw(weight) if beta else self.null
        high = int(np.count_nonzero(sums >= self.observed - slack))
        low = int(np.count_nonzero(sums <= self.observed + slack))
        return (high + 1) / (len(sums) + 1), (low + 1) / (len(sums) + 1)

    def draw(self, weight: np.ndarray) -> tuple[np.ndarray, float]:
        """Draw sums by weights [n, J]; returns them with the size of their rounding errors."""
        steps = (np.diff(self.apart, axis=1) * (self.weight[:, 1:] > 0)).astype(np.float32)
        sums = np.full(len(self.uniform), self.apart[:, 0].sum(), np.float32)
        # the same draws at every beta, so that the tails are monotone
        bounds = np.cumsum(weight, axis=1).astype(np.float32)
        for j in range(steps.shape[1]):
            sums += (self.uniform > bounds[:, j]).astype(np.float32) @ steps[:, j]
        middle = np.float32(weighted_mean(weight, self.apart).sum())
        sums = middle + np.float32(self.spread) * (sums - middle)
        return sums, 1e-5 * float(np.abs(steps).sum())

    @functools.cached_property
    def null(self) -> tuple[np.ndarray, float]:
        """Sums drawn under the hypothesis, as `draw` returns them."""
        return self.draw(self.weight)

    def by_chance(self) -> tuple[float, float]:
        """Return the bounds of 95 % of the sums under the hypothesis, minus the observed one."""
        if self.exact:
            low, high = number_by_chance(weighted_mean(self.weight, self.values))
            return low - self.reached, high - self.reached
        sums, _ = self.null
        low, high = np.quantile(sums, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
        return low - self.observed, high - self.observed

    def p(self) -> float:
        """Return the two-sided p-value: twice the smaller tail."""
        return min(1.0, 2 * min(self.tails()))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the expected sums between which each tail is at least half of `alpha`."""
        least = alpha / 2
        low = self.bound(lambda beta: self.tails(beta)[0] - least, -1)
        high = self.bound(lambda beta: self.tails(beta)[1] - least, 1)
        return self.effect(low), self.effect(high)

    def bound(self, tail: Callable[[float], float], sign: int) -> float:
        """Find the beta at which a tail that falls towards `sign` reaches 0."""
        step = sign / weighted_variance(self.weight, self.apart).sum() ** 0.5
        inside = 0.0
        outside = step
        if tail(0.0) < 0:
            inside = -step
            outside = 0.0
            while tail(inside) < 0 and abs(inside) < FAR:
                inside, outside = 2 * inside, inside
        while tail(outside) > 0 and abs(outside) < FAR:
            inside = outside
            outside = 2 * outside
        if tail(inside) < 0 or tail(outside) > 0:
            return outside  # nothing lies beyond
        return cast(float, brentq(tail, inside, outside, xtol=0.01 * abs(step)))

    def effect(self, beta: float) -> float:
        """Return the expected sum at beta."""
        return float(weighted_mean(self.raised(beta), self.apart).sum())
