"""Tests of searches against the model's own preference among the answers searched for.

Gold is the model's second choice on most questions that it gets wrong, which alone makes it easier
to reach. So the null hypothesis is that gold is drawn among a question's targets by the model's
preference, in proportion to exp(tau * score).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit
from scipy.stats import poisson_binom, rankdata, t

from cola_jax.scoring.statistics import LEVEL, mean

DRAWS = 10_000  # of gold among the targets of each question
MOST_DRAWN = 4_000_000  # targets drawn in all, which bounds time and memory
INFORMATIVE = 10  # questions below which no interval is given
FAR = 100.0  # beta beyond which no weight is left to move
PRIOR, STEPS = 0.04, 25  # of a curve: the precision of its coefficients, and Newton steps
LOWEST, HIGHEST = -30.0, 60.0  # tau, in standard deviations of the scores


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
        the last choice throughout.

        Args:
          gaps: [n, J], as in `Targets`.
        """
        there, values = ~np.isnan(gaps), np.nan_to_num(gaps)
        count = there.sum(axis=1, keepdims=True)
        middle = values.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        spread = math.sqrt(((values - middle) ** 2).sum(where=there) / max(count.sum(), 1))
        if not spread > 0:
            return cls(0.0, math.inf)

        def loss(scaled: float) -> float:
            weight = weights(gaps, scaled / spread)
            information = weighted_variance(weight, values).sum()
            return -np.log(floor(weight[:, 0])).sum() - np.log(floor(information)) / 2

        grid = np.arange(LOWEST, HIGHEST + 1, 3)
        best = float(grid[np.argmin([loss(scaled) for scaled in grid])])
        around = max(LOWEST, best - 3), min(HIGHEST, best + 3)
        optimum = minimize_scalar(loss, bounds=around, options={"xatol": 1e-4})
        tau = float(optimum.x) / spread
        return cls(
            tau, float(1 / np.sqrt(floor(weighted_variance(weights(gaps, tau), values).sum())))
        )


UNWEIGHTED = Preference(0.0, 0.0)


def floor(value: np.ndarray | float) -> np.ndarray:
    """Replace 0 by a number that has a logarithm."""
    return np.maximum(value, 1e-300)


def weights(gaps: np.ndarray, tau: float) -> np.ndarray:
    """Return the chance [n, J] of each target to be gold, 0 where there is none."""
    logits = np.where(np.isnan(gaps), -np.inf, -tau * gaps)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def alike(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return whether all targets of each question have the value of gold, [n]."""
    return (~there | (values == values[:, :1])).all(axis=1)


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
    informative: int  # questions of which some targets were reached, and others not
    effective: float  # equally informative number of questions with equally likely targets

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
        gaps, values = targets.gaps, targets.hits.astype(float)
        if before is not None:
            values = values - before[compared]
        nothing = math.nan, math.nan
        if not len(gaps):
            return cls(math.nan, nothing, math.nan, 0, 0, 0.0, 0, 0.0)
        if preference is None:
            preference = targets.preference()
        weight = weights(gaps, preference.tau)
        there = ~np.isnan(gaps)
        differ = ~alike(values, there)
        alone = (weight**2).sum(axis=1)
        scale = float((1 - alone).sum())
        draws = DRAWS // 5 if quick else DRAWS
        known = Drawn(values, gaps, weight, weighted=targets.weighted, draws=draws)
        net = cls(
            value=known.observed / scale if scale > 0 else math.nan,
            interval=nothing,
            p=known.p(),
            n=len(gaps),
            reached=int(targets.hits[:, 0].sum()),
            expected=float(weighted_mean(weight, targets.hits).sum()),
            informative=int(np.count_nonzero(differ)),
            effective=float(((1 - alone) / (1 - 1 / there.sum(axis=1))).sum()),
        )
        if quick or min(net.informative, net.effective) < INFORMATIVE:
            return net
        low, high = (bound / scale for bound in known.interval())
        return net._replace(interval=(max(-1.0, low), min(1.0, high)))


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
        draws: int = DRAWS,
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
            logits = np.log(self.weight) + beta * self.apart
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def tails(self, beta: float = 0.0) -> tuple[float, float]:
        """Return the chances of a sum of at least, and of at most, the observed one."""
        weight = self.raised(beta)
        if self.exact:
            count = poisson_binom(weighted_mean(weight, self.values).clip(0, 1))
            return float(count.sf(self.reached - 1)), float(count.cdf(self.reached))
        steps = (np.diff(self.apart, axis=1) * (self.weight[:, 1:] > 0)).astype(np.float32)
        sums = np.full(len(self.uniform), self.apart[:, 0].sum(), np.float32)
        # the same draws at every beta, so that the tails are monotone
        bounds = np.cumsum(weight, axis=1).astype(np.float32)
        for j in range(steps.shape[1]):
            sums += (self.uniform > bounds[:, j]).astype(np.float32) @ steps[:, j]
        slack = 1e-5 * float(np.abs(steps).sum())  # of rounding
        high = int(np.count_nonzero(sums >= self.observed - slack))
        low = int(np.count_nonzero(sums <= self.observed + slack))
        return (high + 1) / (len(sums) + 1), (low + 1) / (len(sums) + 1)

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
        inside, outside = 0.0, step
        if tail(0.0) < 0:
            inside, outside = -step, 0.0
            while tail(inside) < 0 and abs(inside) < FAR:
                inside, outside = 2 * inside, inside
        while tail(outside) > 0 and abs(outside) < FAR:
            inside, outside = outside, 2 * outside
        if tail(inside) < 0 or tail(outside) > 0:
            return outside  # nothing lies beyond
        return cast(float, brentq(tail, inside, outside, xtol=0.01 * abs(step)))

    def effect(self, beta: float) -> float:
        """Return the expected sum at beta."""
        return float(weighted_mean(self.raised(beta), self.apart).sum())


class Excess(NamedTuple):
    """How much more often gold is reached than its distance explains: a second test.

    The expected rate is a curve fitted to control searches: how often they reach their target, by
    its gap to the model's answer. So of two answers with the same gap, a search is assumed to reach
    either as easily; `Net` assumes that either is as likely to be gold.
    """

    value: float  # mean over questions, -1 to 1
    interval: tuple[float, float]  # 95 %, jackknife; NaN below `INFORMATIVE` informative questions
    n: int

    @classmethod
    def of(cls, targets: Targets) -> "Excess":
        """Fit a logistic curve to control searches, and compare gold with it at its own gap."""
        there = ~np.isnan(targets.gaps)
        n, nothing = len(there), (math.nan, math.nan)
        control = there & (np.arange(there.shape[1]) > 0)
        if not control.any():
            return cls(math.nan, nothing, 0)
        spread = float(targets.gaps[there].std()) or 1.0
        gaps = np.nan_to_num(targets.gaps) / spread
        design = np.stack([np.ones_like(gaps), gaps], axis=-1)
        beta, hessian = np.zeros(2), PRIOR * np.eye(2)
        score = np.zeros((n, 2))
        for _ in range(STEPS):
            chance = expit(design @ beta)
            score = np.einsum("nj,njk->nk", (targets.hits - chance) * control, design)
            weight = chance * (1 - chance) * control
            hessian = np.einsum("nj,njk,njl->kl", weight, design, design) + PRIOR * np.eye(2)
            beta = beta + np.linalg.solve(hessian, score.sum(axis=0) - PRIOR * beta)

        def excess(betas: np.ndarray) -> np.ndarray:
            return targets.hits[:, 0] - expit(betas @ design[:, 0].T)  # [..., n]

        value = float(excess(beta).mean())
        if np.count_nonzero(~alike(targets.hits, there)) < INFORMATIVE:
            return cls(value, nothing, n)
        # one Newton step from the fit to all questions leaves out each of them
        without = beta - np.linalg.solve(hessian, score.T).T
        sums = np.array([excess(each).sum() for each in without])
        own = targets.hits[:, 0] - expit(np.einsum("nk,nk->n", without, design[:, 0]))
        means = (sums - own) / (n - 1)
        error = math.sqrt((n - 1) / n * float(((means - means.mean()) ** 2).sum()))
        reach = float(t.ppf((1 + LEVEL) / 2, n - 1)) * error
        return cls(value, (max(-1.0, value - reach), min(1.0, value + reach)), n)


class Kept(NamedTuple):
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
    def of(cls, saved: np.ndarray, right: np.ndarray, margin: np.ndarray) -> "Kept":
        """Regress layers saved [n] on whether the answer is right [n] and on ranks of its margin.

        The margin [n] is the best score minus the next one; its rank enters with its square.
        Errors are HC3, which allow the two groups different variances.
        """
        count = int(right.sum()), int((~right).sum())
        means = [mean(saved[group]) for group in (right, ~right)]
        kept = cls(means[0], means[1], *count, math.nan, (math.nan, math.nan), math.nan)
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
        low, high = float(beta[0]) - reach, float(beta[0]) + reach
        return kept._replace(interval=(low, high), p=p)
