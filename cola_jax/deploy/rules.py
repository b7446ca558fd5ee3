"""Rules: which path of a menu answers a question, decided without the correct answer.

A vote, a confidence, or a selector, which reads the hidden state of the prompt.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from cola_jax.identity import digest
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts

CONFIDENCE = ("logprob", "entropy", "certainty")
ALPHAS = tuple(10.0**power for power in range(-1, 6))  # penalties of the selector


class Signals(NamedTuple):
    """What the paths of a menu tell of their answers; fields [n, k], -inf where not finite.

    Of options, the distribution is over the options of a question; of what is decoded, over the
    vocabulary, mean over the tokens.
    """

    answer: np.ndarray  # object: an option's number, or the text of an answer; None for none
    logprob: np.ndarray  # log-probability of the answer, of decoded ones a token's
    entropy: np.ndarray  # in nats
    certainty: np.ndarray  # divergence from the uniform distribution


def signals(verdicts: Verdicts) -> Signals:
    """Reads the signals of verdicts [n, k].

    Raises ValueError for a scorer that says nothing of a wrong answer, as `exact` does.
    """
    if any(isinstance(one, Completion) for one in verdicts.completion.flat):
        return of_completions(verdicts)
    return of_options(verdicts)


def of_options(verdicts: Verdicts) -> Signals:
    """Reads the signals of options from their scores."""
    known = ~np.isnan(verdicts.scores)
    finite = verdicts.finite & known.any(axis=-1)
    scores = np.where(known & finite[..., None], verdicts.scores.astype(np.float64), -np.inf)
    logs = log_softmax(np.where(finite[..., None], scores, 0.0), axis=-1)
    logs = np.where(known, logs, -np.inf)
    count = np.maximum(known.sum(axis=-1), 1)
    spread = np.where(known, np.exp(logs) * np.where(known, logs, 0), 0).sum(axis=-1)
    distance = -np.where(known, logs, 0).sum(axis=-1) / count - np.log(count)
    answer = verdicts.answer.astype(object)
    answer[verdicts.answer == NO_ANSWER] = None
    columns = (logs.max(axis=-1), -spread, distance)
    return Signals(answer, *(np.where(finite, column, -np.inf) for column in columns))


def of_completions(verdicts: Verdicts) -> Signals:
    """Reads the signals of decoded answers; one that is cut off is none."""
    answer = np.full(verdicts.finite.shape, None, object)
    columns = [np.full(verdicts.finite.shape, -np.inf) for _ in CONFIDENCE]
    for at, one in np.ndenumerate(verdicts.completion):
        if one is None or not one.tokens or not verdicts.finite[at]:
            continue
        answer[at] = None if one.truncated or one.answer is None else one.answer.strip()
        values = (one.logprob / len(one.tokens), one.entropy, one.certainty)
        for column, value in zip(columns, values, strict=True):
            column[at] = value
    return Signals(answer, *columns)


def vote(answers: np.ndarray) -> np.ndarray:
    """Returns the first path [n] of the answer that most paths [n, k] give.

    Of answers given as often, that of the earlier path; the first path where none answers.
    """
    chosen = np.zeros(len(answers), int)
    for b, row in enumerate(answers.tolist()):
        counts = Counter(answer for answer in row if answer is not None)
        if counts:
            most = max(counts.values())
            chosen[b] = next(i for i, answer in enumerate(row) if counts.get(answer) == most)
    return chosen


def most_confident(values: np.ndarray, sign: int) -> np.ndarray:
    """Returns the path [n] of the largest signal [n, k], or with sign -1 of the smallest."""
    return np.where(np.isfinite(values), sign * values, -np.inf).argmax(axis=1)


def fit_sign(values: np.ndarray, right: np.ndarray) -> int:
    """Returns the sign with which a signal [n, k] chooses paths that are right [n, k] more often.

    A less certain path may be the better one: which it is, is measured on training questions.
    """
    each = np.arange(len(right))
    hits = {sign: right[each, most_confident(values, sign)].sum() for sign in (1, -1)}
    return 1 if hits[1] >= hits[-1] else -1


class Selector(NamedTuple):
    """A linear regression from features [D] to whether each of k paths is right."""

    mean: np.ndarray  # [D] of the training features
    scale: np.ndarray  # [D], their standard deviation
    weights: np.ndarray  # [D, k]
    bias: np.ndarray  # [k]

    @property
    def digest(self) -> str:
        """The digest of the arrays."""
        return digest({name: array.tolist() for name, array in self._asdict().items()})

    def choose(self, features: np.ndarray) -> np.ndarray:
        """Returns the path [n] that is expected to be right, for features [n, D]."""
        return (((features - self.mean) / self.scale) @ self.weights + self.bias).argmax(axis=1)


def fit_selector(features: np.ndarray, right: np.ndarray) -> Selector:
    """Fits ridge regressions with the penalty of the least error when a question is left out.

    Args:
      features: [n, D].
      right: [n, k], whether each path was right.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, bias = (features - mean) / scale, right.mean(axis=0)
    y = right - bias
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y

    def error(alpha: float) -> float:
        shrink = s**2 / (s**2 + alpha)
        residual = y - u @ (shrink[:, None] * projected)
        # the residual of a question that the fit has not seen; the mean is a parameter too
        leverage = (u**2) @ shrink + 1 / len(x)
        return float(((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).mean())

    alpha = min(ALPHAS, key=error)
    weights = vt.T @ ((s / (s**2 + alpha))[:, None] * projected)
    return Selector(mean, scale, weights, bias)
