"""`Preference`: how likely each answer that was searched for is gold, whatever searches reached.

Gold is the model's second choice on most questions that it gets wrong, and edited models reach
short answers more easily, or long ones. Neither is skill. So gold is regarded as drawn among a
question's targets by a conditional logit in `COVARIATES`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata

# Of each target: its score in nats, and the length of its text and the rank of its score, with the
# squares of both. The last four are standardised within the question, so that of two targets
# squares say nothing, and of three the rank and its square are any chances of first, second, third.
# An open question has two, gold and a decoy: rank then says which has the larger score, by however
# little, and length matters as well, as decoys from other paths are of any length.
COVARIATES = ("score", "length", "rank", "length squared", "rank squared")
STEPS = 100  # of the fit, at most
LONGEST = 2.0  # change of a coefficient in one of them, per standard deviation of its covariate
RIDGE = 1e-3  # on the same coefficients, of which a pull this weak only bounds the largest
CLOSE = 1e-4  # change of every coefficient at which the fit ends
COLLINEAR = 1e-6  # share of the variance below which covariates are regarded as collinear


class Targets(NamedTuple):
    """The answers that the searches of n questions looked for: gold first, then its controls."""

    hits: np.ndarray  # [n, J] bool, whether a search reached the target
    # [n, J], the score of the pretrained model's best answer minus that of the target, NaN for none
    gaps: np.ndarray
    lengths: np.ndarray  # [n, J], characters of the target's text
    weighted: bool = True  # whether scores say how likely a target is to be gold

    @property
    def there(self) -> np.ndarray:
        """Whether a question has a target, [n, J]."""
        return ~np.isnan(self.gaps)

    @property
    def covariates(self) -> np.ndarray:
        """The `COVARIATES` of each target, [n, J, K]; 0 where there is none."""
        there = self.there
        score = np.where(there, -self.gaps, -np.inf)
        length = standardized(self.lengths, there)
        rank = standardized(rankdata(score, axis=1), there)
        squares = (standardized(each**2, there) for each in (length, rank))
        return np.stack([np.where(there, score, 0.0), length, rank, *squares], axis=2)

    def take(self, which: np.ndarray) -> "Targets":
        """Select questions."""
        return Targets(self.hits[which], self.gaps[which], self.lengths[which], self.weighted)

    def preference(self) -> "Preference":
        """Fit the preference for gold among these targets; none without weights."""
        return Preference.fit(self) if self.weighted else UNWEIGHTED

    def relabel(self, gold: np.ndarray) -> "Targets":
        """Make another target [n] of each question its gold."""
        others = np.arange(self.gaps.shape[1]) != gold[:, None]
        order = np.argsort(others, axis=1, kind="stable")
        return self._replace(
            hits=np.take_along_axis(self.hits, order, axis=1),
            gaps=np.take_along_axis(self.gaps, order, axis=1),
            lengths=np.take_along_axis(self.lengths, order, axis=1),
        )


def standardized(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Give values [n, J] mean 0 and variance 1 within each question; 0 where all are alike."""
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    values = np.where(there, values, 0.0)
    apart = np.where(there, values - values.sum(axis=1, keepdims=True) / count, 0.0)
    spread = np.sqrt((apart**2).sum(axis=1, keepdims=True) / count)
    some = spread > 1e-9 * np.abs(values).max(axis=1, keepdims=True, initial=0)
    return np.where(some, apart / np.where(some, spread, 1.0), 0.0)


class Preference(NamedTuple):
    """How strongly covariates of a target predict that it is gold; at 0 all are alike."""

    coefficients: tuple[float, ...]  # of `COVARIATES`, on the log-odds
    errors: tuple[float, ...]  # their standard errors; inf where no question tells

    @classmethod
    def of_score(cls, tau: float) -> "Preference":
        """Make a preference by score alone, tau a nat."""
        none = (0.0,) * (len(COVARIATES) - 1)
        return cls((tau, *none), (0.0, *none))

    @classmethod
    def fit(cls, targets: Targets) -> "Preference":
        """Fit the place of gold among the targets of n questions, whatever was reached.

        A conditional logit with Jeffreys' prior, which keeps coefficients finite where a covariate
        tells gold apart throughout. It is fitted by Fisher scoring on the covariates' principal
        components, of which those without variance are left out.
        """
        there = targets.there
        covariates = targets.covariates
        weight = there / np.maximum(there.sum(axis=1, keepdims=True), 1) / max(len(there), 1)
        axes = principal_axes(moments(centered(covariates, weight * len(there)), weight))
        columns = covariates @ axes
        coefficients = np.zeros(axes.shape[1])
        point = LogitPoint.at(columns, there, coefficients)
        for _ in range(STEPS):
            step = point.step()
            step *= min(1.0, LONGEST / max(float(np.abs(step).max(initial=0)), 1e-9))
            while True:
                following = LogitPoint.at(columns, there, point.coefficients + step)
                if following.value >= point.value or np.abs(step).max(initial=0) < CLOSE:
                    break
                step /= 2
            point = following
            if np.abs(step).max(initial=0) < CLOSE:
                break
        inverse = np.linalg.pinv(point.information, hermitian=True)
        variances = np.einsum("ka,ab,kb->k", axes, inverse, axes)
        errors = np.where(np.abs(axes).max(axis=1, initial=0) > 0, np.sqrt(variances), math.inf)
        return cls(tuple((axes @ point.coefficients).tolist()), tuple(errors.tolist()))

    def weights(self, targets: Targets) -> np.ndarray:
        """Return the chance [n, J] of each target to be gold, 0 where there is none."""
        odds = targets.covariates @ np.array(self.coefficients)
        return softmax(np.where(targets.there, odds, -np.inf), axis=1)


UNWEIGHTED = Preference.of_score(0.0)


class LogitPoint(NamedTuple):
    """The penalised likelihood of a conditional logit at some coefficients [k]."""

    coefficients: np.ndarray
    value: float
    gradient: np.ndarray
    information: np.ndarray  # [k, k], without the penalty

    @classmethod
    def at(cls, columns: np.ndarray, there: np.ndarray, coefficients: np.ndarray) -> "LogitPoint":
        """Evaluate it for covariates [n, J, k] of targets, the first of each question gold."""
        weight = softmax(np.where(there, columns @ coefficients, -np.inf), axis=1)
        apart = centered(columns, weight)
        information = moments(apart, weight)
        least = 1e-12 * np.eye(len(coefficients))
        value = np.log(np.maximum(weight[:, 0], 1e-300)).sum()
        value += np.linalg.slogdet(information + least)[1] / 2
        value -= RIDGE / 2 * (coefficients**2).sum()
        # the derivative of the information by each coefficient is a third moment
        weighted = weight[:, :, None] * apart
        pairs = (apart @ np.linalg.inv(information + least) * apart).sum(axis=2)
        gradient = apart[:, 0].sum(axis=0) - RIDGE * coefficients
        gradient += np.einsum("nj,njk->k", pairs, weighted) / 2
        return cls(coefficients, float(value), gradient, information)

    def step(self) -> np.ndarray:
        """Return the change [k] of the coefficients by Fisher scoring."""
        ridge = (RIDGE + 1e-9) * np.eye(len(self.coefficients))
        return np.linalg.solve(self.information + ridge, self.gradient)


def centered(columns: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Take the weighted mean of each question off covariates [n, J, K]; 0 where weights are 0."""
    mean = np.einsum("nj,njk->nk", weight, columns)
    return np.where(weight[:, :, None] > 0, columns - mean[:, None], 0.0)


def moments(apart: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum the weighted products [K, K] of covariates [n, J, K]."""
    return np.einsum("nj,nja,njb->ab", weight, apart, apart)


def principal_axes(products: np.ndarray) -> np.ndarray:
    """Return columns [K, k] that turn covariates into uncorrelated ones of variance 1.

    `products` [K, K] are their `moments`; the variance is that of a question's.
    """
    spread = np.sqrt(np.diag(products))
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1.0), 0.0)
    values, axes = np.linalg.eigh(products * scale * scale[:, None])
    kept = values > COLLINEAR
    return scale[:, None] * axes[:, kept] / np.sqrt(values[kept])


def residuals(
    values: np.ndarray, covariates: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, int]:
    """Take off values [n, J] what covariates [n, J, K] explain of them within questions.

    Returns them with the number of covariates that are not collinear.
    """
    apart = centered(covariates, weight)
    axes = principal_axes(moments(apart, weight))
    slopes = axes @ (axes.T @ np.einsum("nj,nja,nj->a", weight, apart, values))
    return values - covariates @ slopes, axes.shape[1]


def weighted_mean(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean [n] of values [n, J] by weights."""
    return (weight * values).sum(axis=1)


def weighted_variance(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the variance [n] of values [n, J] by weights."""
    return (weight * (values - weighted_mean(weight, values)[:, None]) ** 2).sum(axis=1)
