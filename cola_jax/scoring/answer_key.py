"""`AnswerKey`: how readings become answers, by functions of padded arrays of NumPy or JAX.

A host marks the evaluations of a question, and a search on a device those of all its questions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.prompts import Readings
from cola_jax.scoring.verdicts import NO_ANSWER

NO_OPTION = -1  # the option of a padding read
TIE = 1e-6  # the margin of a token that is as likely as its rival


class AnswerKey(NamedTuple):
    """What the reads of a question mean; of several questions, with leading axes."""

    option: Any  # [Q] int32, the option that each read belongs to
    targets: Any  # [Q] int32, the token asked about
    end: Any  # [Q] bool, whether the read asks about the end of its option
    ends: Any  # [V] bool, tokens that end an answer; later tokens do not
    # [J] float, by which the sum of an option's log-probabilities is divided; 0: there is none
    divisor: Any

    @classmethod
    def of(
        cls,
        option: np.ndarray,
        targets: Any,
        divisor: Sequence[float],
        end: np.ndarray | None = None,
        ends: Sequence[int] = (),
    ) -> "AnswerKey":
        """Make the key of one question; `ends` are tokens."""
        is_end = np.zeros(max(ends, default=0) + 1, bool)
        is_end[list(ends)] = True
        none = np.zeros(len(option), bool)
        return cls(
            option, np.asarray(targets), none if end is None else end, is_end, np.array(divisor)
        )

    @classmethod
    def stack(cls, keys: "Sequence[AnswerKey]", reads: int, options: int, vocab: int) -> Any:
        """Join the keys of B questions, padded to Q reads, J options and V tokens."""
        fills = NO_OPTION, 0, False, False, 0
        sizes = reads, reads, reads, vocab, options
        columns = []
        for values, fill, size in zip(zip(*keys, strict=True), fills, sizes, strict=True):
            dtype = np.float32 if values[0].dtype.kind == "f" else values[0].dtype
            column = np.full((len(keys), size), fill, dtype)
            for row, value in zip(column, values, strict=True):
                row[: len(value)] = value[:size]
            columns.append(column)
        return cls(*columns)


class Marked(NamedTuple):
    """The scores of options, before they are compared with a target; float32 and int32."""

    scores: Any  # [..., J], NaN for options that are not there
    answer: Any  # [...], the option chosen, or NO_ANSWER
    outside: Any  # [...], the best score outside the options, as that of `Verdicts`
    answer_logprobs: Any  # [..., J], NaN where that is not known


# Takes readings [..., Q], and the key of one question, or one for each reading
Mark = Callable[[Readings, AnswerKey], Marked]


def mark_options(readings: Readings, key: AnswerKey) -> Marked:
    """Choose the option whose tokens have the highest log-likelihood, divided as the key says."""
    xp = namespace(readings)
    scores = option_scores(readings, key)
    answer = first_best(xp, scores)
    return Marked(
        scores, answer, xp.full_like(scores[..., 0], -xp.inf), xp.full_like(scores, xp.nan)
    )


def option_scores(readings: Readings, key: AnswerKey) -> Any:
    """Add up the log-probabilities of each option's tokens and divide them, [..., J] float32."""
    xp = namespace(readings)
    total = summed(xp, readings.logprob, reads_of(xp, key, ~key.end))
    there = key.divisor > 0
    scores = total / xp.where(there, key.divisor, 1)
    return xp.where(there, scores, xp.nan).astype(xp.float32)


def mark_letters(readings: Readings, key: AnswerKey) -> Marked:
    """Choose the most likely token of all, if it is a letter; each is one token, read once."""
    xp = namespace(readings)
    scores = option_scores(readings, key)
    chosen = (readings.token == key.targets) & (key.option != NO_OPTION)
    letter = xp.argmax(chosen, axis=-1)
    answer = xp.where(chosen.any(axis=-1), letter, NO_ANSWER).astype(xp.int32)
    # the best token but the likeliest letter: exact for that letter, and it alone can be ahead
    rival = xp.take_along_axis(readings.rival, letter[..., None], axis=-1)[..., 0]
    outside = xp.where(readings.finite, rival, -xp.inf)
    return Marked(scores, answer, outside, xp.full_like(scores, xp.nan))


def mark_exact(readings: Readings, key: AnswerKey) -> Marked:
    """Score each answer by the least lead of its tokens over their rivals, positive if decoded."""
    xp = namespace(readings)
    of_body = reads_of(xp, key, ~key.end)
    of_end = reads_of(xp, key, key.end)
    has_end = of_end.any(axis=-1)
    # where two tokens tie, the first is chosen, whatever the difference says
    with np.errstate(invalid="ignore"):  # values that are not finite are not used
        ahead = readings.logprob - readings.rival
    likeliest = readings.token == key.targets
    ahead = xp.where(likeliest, xp.maximum(ahead, TIE), xp.minimum(ahead, -TIE))
    ahead = ahead.astype(xp.float32)[..., None, :]
    scores = xp.min(xp.where(of_body, ahead, xp.inf), axis=-1)
    best = xp.max(xp.where(of_end, ahead, -xp.inf), axis=-1)
    # an end that was not among those read is more likely than all of them, and ends it too
    read = xp.argmax(xp.broadcast_to(of_end, (*best.shape, of_end.shape[-1])), axis=-1)
    ended = is_end(xp, key, xp.take_along_axis(readings.token, read, axis=-1))
    best = xp.where(ended, xp.maximum(best, xp.float32(TIE)), best)
    scores = xp.where(has_end, xp.minimum(scores, best), scores)
    there = key.divisor > 0
    scores = xp.where(there, scores, xp.nan).astype(xp.float32)
    answer = xp.where(
        xp.max(xp.where(there, scores, -xp.inf), axis=-1) > 0, first_best(xp, scores), NO_ANSWER
    )
    # decoding at temperature 1 gives an answer with any token that ends it, of which some are read
    logprob = readings.logprob
    total = summed(xp, logprob, of_body)
    most = xp.max(xp.where(of_end, logprob[..., None, :], -xp.inf), axis=-1, keepdims=True)
    most = xp.where(xp.isfinite(most), most, 0)
    shares = xp.where(of_end, xp.exp(logprob[..., None, :] - most), 0)
    with np.errstate(divide="ignore"):  # no end is read
        end_logprob = xp.log(xp.sum(shares, axis=-1)) + most[..., 0]
    logprobs = xp.where(there, xp.where(has_end, total + end_logprob, total), xp.nan)
    outside = xp.full_like(scores[..., 0], xp.nan)  # each answer is judged alone
    return Marked(scores, answer.astype(xp.int32), outside, logprobs.astype(xp.float32))


def namespace(readings: Readings) -> Any:
    """Return the module of the arrays of readings, NumPy or jax.numpy."""
    return jnp if isinstance(readings.logprob, jax.Array) else np


def reads_of(xp: Any, key: AnswerKey, kind: Any) -> Any:
    """Return which reads of a kind [..., Q] belong to each option, [..., J, Q]."""
    options = xp.arange(key.divisor.shape[-1])[:, None]
    return (key.option[..., None, :] == options) & kind[..., None, :]


def summed(xp: Any, values: Any, of_option: Any) -> Any:
    """Sum values [..., Q] by option, [..., J]."""
    return xp.sum(xp.where(of_option, values[..., None, :], 0), axis=-1)


def first_best(xp: Any, scores: Any) -> Any:
    """Return the first option of the highest score, among those that are there."""
    return xp.argmax(xp.where(xp.isnan(scores), -xp.inf, scores), axis=-1).astype(xp.int32)


def is_end(xp: Any, key: AnswerKey, token: Any) -> Any:
    """Return whether tokens [..., J] end an answer."""
    last = key.ends.shape[-1] - 1
    place = xp.clip(token, 0, last)
    ends = xp.broadcast_to(key.ends, (*token.shape[:-1], last + 1))
    return xp.take_along_axis(ends, place, axis=-1) & (token == place)
