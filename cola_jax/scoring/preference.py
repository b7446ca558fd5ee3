"""Tests of searches against the model's own preference among the answers searched for.

Gold is the model's second choice on most questions that it gets wrong, which alone makes it easier
to reach. So the null hypothesis is that gold is drawn among a question's targets by the model's
preference, in proportion to exp(tau * score).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.signal import fftconvolve
from scipy.special import softmax
from scipy.stats import poisson_binom, rankdata, t

from cola_jax.scoring.statistics import LEVEL, mean

DRAWS = 10_000  # of gold among the targets of each question
MOST_DRAWN = 4_000_000  # targets drawn in all, which bounds time and memory
INFORMATIVE = 10  # questions below which no interval is given
FAR = 100.0  # beta beyond which no weight is left to move
LOWEST = -30.0  # tau, in standard deviations of the scores
HIGHEST = 60.0
NO_INTERVAL = (math.nan, math.nan)


class Targets(NamedTuple):
    """The answers that the searches of n questions looked for: gold first, then its controls."""

    hits: np.ndarray  # [n, J] bool, whether a search reached the target
    # [n, J], the score of the pretrained model's best answer minus that of the target, NaN for none
    gaps: np.ndarray
    weighted: bool = True  # whether scores say how likely a target is to be gold

    def take(self, which: np.ndarray) -> "Targets":
        """Select questions."""
        return self._replace(hits=self.hits[which], gaps=self.gaps[which])

    def preference(self) -> "Preference":
        """Fit the preference for gold among these targets; none without weights."""
        return Preference.fit(self.gaps) if self.weighted else UNWEIGHTED

    def relabel(self, gold: np.ndarray) -> "Targets":
        """Make another target [n] of each question its gold."""
        others = np.arange(self.gaps.shape[1]) != gold[:, None]
        order = np.argsort(others, axis=1, kind="stable")
        return self._replace(
            hits=np.take_along_axis(self.hits, order, axis=1),
            gaps=np.take_along_axis(self.gaps, order, axis=1),
        )


class Preference(NamedTuple):
    """How strongly the model's scores predict which target is gold; at 0 all are alike."""

    tau: float  # per unit of score
    error: float  # its standard error

    @classmethod
    def fit(cls, gaps: np.ndarray) -> "Preference":
        """Fit the place of gold among the targets of n questions, whatever was reached.

        A conditional logit with Jeffreys' prior, which keeps tau finite where gold is the first or
        the last choice throughout. `gaps` [n, J] are those of `Targets`.
        """
        there = ~np.isnan(gaps)
        values = np.nan_to_num(gaps)
        count = there.sum(axis=1, keepdims=True)
        middle = values.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        spread = math.sqrt(((values - middle) ** 2).sum(where=there) / max(count.sum(), 1))
        if not spread > 0:
            return cls(0.0, math.inf)

        def information(weight: np.ndarray) -> float:
            return float(floor(weighted_variance(weight, values).sum()))

        def loss(scaled: float) -> float:
            weight = weights(gaps, scaled / spread)
            return -np.log(floor(weight[:, 0])).sum() - np.log(information(weight)) / 2

        grid = np.arange(LOWEST, HIGHEST + 1, 3)
        best = float(grid[np.argmin([loss(scaled) for scaled in grid])])
        around = max(LOWEST, best - 3), min(HIGHEST, best + 3)
        optimum: Any = minimize_scalar(loss, bounds=around, options={"xatol": 1e-4})
        tau = float(optimum.x) / spread
        return cls(tau, 1 / math.sqrt(information(weights(gaps, tau))))


UNWEIGHTED = Preference(0.0, 0.0)


def floor(value: np.ndarray | float) -> np.ndarray:
    """Replace 0 by a number that has a logarithm."""
    return np.maximum(value, 1e-300)


def weights(gaps: np.ndarray, tau: float) -> np.ndarray:
    """Return the chance [n, J] of each target to be gold, 0 where there is none."""
    return softmax(np.where(np.isnan(gaps), -np.inf, -tau * gaps), axis=1)


def weighted_mean(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean [n] of values [n, J] by weights."""
    return (weight * values).sum(axis=1)


def weighted_variance(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the variance [n] of values [n, J] by weights."""
    return (weight * (values - weighted_mean(weight, values)[:, None]) ** 2).sum(axis=1)


class Net(NamedTuple):
    """How much more often gold is reached than by control searches and by preference.

    The value is a mean over questions of gold's hit minus that of a control, -1 to 1, where a
    question counts by the chance that gold is another of its targets.
    """

    value: float  # without the part that gaps explain, which at a fitted tau is none
    interval: tuple[float, float]  # 95 %; NaN for fewer than `INFORMATIVE` informative questions
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
        """The 95 % interval of `difference`."""
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
        quick: bool = False,
    ) -> "Net":
        """Test hits against gold drawn by a preference, the targets' own by default.

        The interval inverts the test, over all effects that multiply the odds of targets reached.

        Args:
          targets: of n questions.
          preference: of another run of the model.
          before: [n, J], hits of other searches for the same targets, to test the change.
          quick: skip the interval, and make fewer draws.
        """
        compared = (~np.isnan(targets.gaps)).sum(axis=1) > 1
        targets = targets.take(compared)
        gaps = targets.gaps
        values = targets.hits.astype(float)
        if before is not None:
            values = values - before[compared]
        if not len(gaps):
            return cls(math.nan, NO_INTERVAL, math.nan, 0, 0, 0.0, NO_INTERVAL, 0, 0.0, 0.0)
        weight = weights(gaps, (preference or targets.preference()).tau)
        there = ~np.isnan(gaps)
        differ = (there & (values != values[:, :1])).any(axis=1)
        alone = (weight**2).sum(axis=1)
        scale = float((1 - alone).sum())
        draws = DRAWS // 5 if quick else DRAWS
        known = Drawn(values, gaps, weight, weighted=targets.weighted, draws=draws)
        chances = weighted_mean(weight, targets.hits)
        net = cls(
            value=known.observed / scale if scale > 0 else math.nan,
            interval=NO_INTERVAL,
            p=known.p(),
            n=len(gaps),
            reached=int(targets.hits[:, 0].sum()),
            expected=float(chances.sum()),
            by_chance=NO_INTERVAL,
            informative=int(np.count_nonzero(differ)),
            effective=float(((1 - alone) / (1 - 1 / there.sum(axis=1))).sum()),
            scale=scale,
        )
        if min(net.informative, net.effective) < INFORMATIVE and before is None:
            return net._replace(by_chance=number_by_chance(chances))
        # beside the test, which regards the gaps of gold itself
        low, high = (min(max(0.0, net.reached + bound), net.n) for bound in known.by_chance())
        expected = min(max(0.0, net.reached - known.observed), net.n)
        net = net._replace(expected=expected, by_chance=(low, high))
        if quick or min(net.informative, net.effective) < INFORMATIVE:
            return net
        low, high = (bound / scale for bound in known.interval())
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


class Drawn:
    """The sum of a value over n questions' gold targets, where gold is drawn.

    Weights are multiplied by exp(beta * value), so beta = 0 is the hypothesis, and larger ones are
    searches that reach gold more often than its controls.

    Values are first made independent of the gaps. The sum then hardly depends on tau, so its
    distribution is right although tau was fitted on the same questions, and varies less.
    """

    def __init__(
        self,
        values: np.ndarray,
        gaps: np.ndarray,
        weight: np.ndarray,
        *,
        weighted: bool,
        draws: int,
    ):
        """Take values [n, J], with their gaps and weights."""
        self.exact = not weighted and bool(np.isin(values, (0, 1)).all())
        known = np.nan_to_num(gaps)
        spread = weighted_variance(weight, known).sum() if weighted else 0.0
        if spread > 0:
            apart = known - weighted_mean(weight, known)[:, None]
            values = values - (weight * values * apart).sum() / spread * known
        apart = values - weighted_mean(weight, values)[:, None]
        self.observed = float(apart[:, 0].sum())
        self.reached = int(values[:, 0].sum()) if self.exact else 0
        order = np.argsort(np.where(weight > 0, apart, np.inf), axis=1)
        self.values, self.apart, self.weight = (
            np.take_along_axis(each, order, axis=1) for each in (values, apart, weight)
        )
        if not self.exact:
            draws = min(draws, max(1000, MOST_DRAWN // len(values)))
            self.uniform = np.random.default_rng(0).random((draws, len(values)), np.float32)

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
        sums, slack = self.draw(weight)
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
        return sums, 1e-5 * float(np.abs(steps).sum())

    def by_chance(self) -> tuple[float, float]:
        """Return the bounds of 95 % of the sums under the hypothesis, minus the observed one."""
        if self.exact:
            low, high = number_by_chance(weighted_mean(self.weight, self.values))
            return low - self.reached, high - self.reached
        sums, _ = self.draw(self.weight)
        low, high = np.quantile(sums, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
        return low - self.observed, high - self.observed

    def p(self) -> float:
        """Return the two-sided p-value: twice the smaller tail."""
        return min(1.0, 2 * min(self.tails()))

    def interval(self) -> tuple[float, float]:
        """Return the expected sums between which each tail is at least half of 5 %."""
        least = (1 - LEVEL) / 2
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


class SavedLayers(NamedTuple):
    """Layers saved on right answers minus those saved on wrong ones, over different questions.

    A search for an answer that the model gives already only has to keep it, right or wrong, and a
    sure answer is kept on fewer layers. So the two are compared at equal confidence.
    """

    right: float  # mean over the questions answered right, without regard to confidence
    wrong: float
    n_right: int
    n_wrong: int
    difference: float  # at equal margins of the model's answer; NaN without both, or all alike
    interval: tuple[float, float]  # 95 %; NaN below ten right or ten wrong questions
    p: float  # two-sided

    @classmethod
    def of(cls, saved: np.ndarray, right: np.ndarray, margin: np.ndarray) -> "SavedLayers":
        """Regress layers saved [n] on whether the answer is right [n] and on ranks of its margin.

        The margin [n] is the best score minus the next one; its rank enters with its square.
        Errors are HC3, which allow the two groups different variances.
        """
        count = int(right.sum()), int((~right).sum())
        means = [mean(saved[group]) for group in (right, ~right)]
        kept = cls(means[0], means[1], *count, math.nan, NO_INTERVAL, math.nan)
        if min(count) < 2 or np.ptp(saved) == 0:
            return kept
        rank = (rankdata(margin) - (len(margin) + 1) / 2) / len(margin)
        design = np.stack([right, np.ones(len(rank)), rank, rank**2], axis=1).astype(float)
        inverse = np.linalg.pinv(design.T @ design)
        beta = inverse @ design.T @ saved
        kept = kept._replace(difference=float(beta[0]))
        if min(count) < INFORMATIVE:
            return kept
        leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
        residual = (saved - design @ beta) / np.maximum(1 - leverage, 1e-9)
        error = float(np.linalg.norm(inverse[0] @ (design * residual[:, None]).T))
        degrees = len(saved) - design.shape[1]
        reach = float(t.ppf((1 + LEVEL) / 2, degrees)) * error
        p = float(2 * t.sf(abs(beta[0]) / error, degrees)) if error > 0 else 1.0
        low = float(beta[0]) - reach
        high = float(beta[0]) + reach
        return kept._replace(interval=(low, high), p=p)
