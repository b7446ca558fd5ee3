"""From readings, or decoded texts, to verdicts and margins."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.execute.decoder import BROKEN
from cola_jax.prompts import Readings
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grade

NO_ANSWER = -1  # what a path that is not finite, or a strict letter that is none, answers
TIE = 1e-6  # the margin of a token that is as likely as its rival
GOLD, DECOY = 0, 1  # the options of an open question


@dataclasses.dataclass(frozen=True)
class Said:
    """What a path decoded, and what became of it."""

    text: str  # up to what ended it
    answer: str | None  # found in the text, None where there is none
    finish: str  # why it ended: see `decoder`
    cut: bool  # the token limit ended it before the answer was complete
    grade: Grade
    ids: tuple[int, ...]  # the tokens decoded
    logprob: float  # natural, of all of them
    decoy: bool = False  # whether the answer is graded as the question's decoy


class Verdicts(NamedTuple):
    """What C paths made of one question."""

    verdict: np.ndarray  # [C] bool, whether the answer is right
    margin: np.ndarray  # [C] float32, score of gold minus its best rival's; -inf if not finite
    answer: np.ndarray  # [C] int32, the option chosen, or NO_ANSWER
    finite: np.ndarray  # [C] bool
    said: np.ndarray  # [C] of Said, of the scorer `generate`; else of None

    @property
    def graded(self) -> np.ndarray:
        """False where the grader failed: that says nothing about the answer."""
        known = [said is None or said.grade is not Grade.UNGRADED for said in self.said.flat]
        return np.array(known, bool).reshape(self.said.shape)

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> "Verdicts":
        """Makes the verdicts of nothing, to be filled."""
        return cls(
            verdict=np.zeros(shape, bool),
            margin=np.full(shape, -np.inf, np.float32),
            answer=np.full(shape, NO_ANSWER, np.int32),
            finite=np.zeros(shape, bool),
            said=np.full(shape, None, object),
        )


def score(readings: Readings, encoded: Encoded) -> Verdicts:
    """Scores readings [C, Q'] of one question, Q' at least its own number of reads Q.

    The log-likelihood of an option is the sum over the positions that belong to it. Where options
    tie, the first one is the answer, as in lm-evaluation-harness.
    """
    if encoded.scorer == "exact":
        return score_exact(readings, encoded)
    gold = encoded.question.answer
    reads = len(encoded.option)
    logprob = np.asarray(readings.logprob)[:, :reads].astype(np.float64)
    finite = np.asarray(readings.finite)
    scores = np.stack(
        [logprob[:, encoded.option == j].sum(axis=1) for j in range(len(encoded.question.options))],
        axis=1,
    )
    if encoded.scorer == "options-norm":
        scores /= np.array([len(option) for option in encoded.question.options])
    # a path that is not finite has no order among its options
    scores = np.where(finite[:, None], scores, 0.0)
    answer = scores.argmax(axis=1)
    rival = np.delete(scores, gold, axis=1).max(axis=1)
    if encoded.scorer == "letter-strict":
        token = np.asarray(readings.token)[:, :reads]
        said = token[:, :1] == np.asarray(encoded.prompts.targets)[None]
        answer = np.where(said.any(axis=1), said.argmax(axis=1), NO_ANSWER)
        rival = np.where(finite, np.asarray(readings.rival)[:, gold], 0.0)
    return verdicts_of(answer, gold, scores[:, gold] - rival, finite)


def score_exact(readings: Readings, encoded: Encoded) -> Verdicts:
    """Scores answers that were fed behind the prompt: right if each token was the likeliest.

    An answer's margin is that of its weakest token: greedy decoding gives the answer if and only
    if it is positive.
    """
    margins = np.stack(
        [exact_margin(readings, encoded, j) for j in range(len(encoded.question.options))], axis=1
    )
    answer = np.where(margins.max(axis=1) > 0, margins.argmax(axis=1), NO_ANSWER)
    return verdicts_of(answer, GOLD, margins[:, GOLD], np.asarray(readings.finite))


def exact_margin(readings: Readings, encoded: Encoded, option: int) -> np.ndarray:
    """Returns the least log-probability [C] of an answer's tokens over their rivals'."""
    assert encoded.end is not None
    reads = len(encoded.option)
    logprob, rival, token = (
        np.asarray(x)[:, :reads] for x in (readings.logprob, readings.rival, readings.token)
    )
    targets, mine = np.asarray(encoded.prompts.targets), encoded.option == option
    body, end = mine & ~encoded.end, mine & encoded.end
    # where two tokens tie, the first is chosen, whatever the difference says
    with np.errstate(invalid="ignore"):  # of what is not finite nothing is used
        ahead = logprob - rival
    ahead = np.where(token == targets, np.maximum(ahead, TIE), np.minimum(ahead, -TIE))
    margin = ahead[:, body].min(axis=1, initial=np.inf)
    if end.any():
        best = ahead[:, end].max(axis=1)
        # an end that was not among those read beats them, and is an end all the same
        ends = np.isin(token[:, end.argmax()], encoded.ends)
        margin = np.minimum(margin, np.where(ends, np.maximum(best, TIE), best))
    return margin


def score_texts(texts: Sequence[Said], nearest: np.ndarray) -> Verdicts:
    """Scores what paths decoded and what it was graded.

    `nearest` [C] is how close any chosen token came to its rival: the margin, negative where the
    answer is not right.
    """
    right = np.array([said.grade is Grade.RIGHT for said in texts], bool)
    finite = np.array([said.finish != BROKEN for said in texts], bool)
    decoy = np.array([said.decoy for said in texts], bool)
    answer = np.where(right, GOLD, np.where(decoy, DECOY, NO_ANSWER))
    nearest = np.maximum(nearest, TIE)  # else the margin of a tie would have no sign
    verdicts = verdicts_of(answer, GOLD, np.where(right, nearest, -nearest), finite)
    said = np.full(len(texts), None, object)
    said[:] = texts
    return verdicts._replace(said=said)


def verdicts_of(answer: np.ndarray, gold: int, margin: np.ndarray, finite: np.ndarray) -> Verdicts:
    """Makes verdicts; a path that is not finite has no answer."""
    return Verdicts(
        verdict=finite & (answer == gold),
        margin=np.where(finite, margin, -np.inf).astype(np.float32),
        answer=np.where(finite, answer, NO_ANSWER).astype(np.int32),
        finite=finite,
        said=np.full(len(answer), None, object),
    )
