"""From readings to verdicts and margins."""

from typing import NamedTuple

import numpy as np

from cola_jax.prompts import Readings
from cola_jax.tasks.prompt import Encoded

NO_ANSWER = -1  # what a path that is not finite, or a strict letter that is none, answers


class Verdicts(NamedTuple):
    """What C paths made of one question."""

    verdict: np.ndarray  # [C] bool, whether the answer is right
    margin: np.ndarray  # [C] float32, score of gold minus its best rival's; -inf if not finite
    answer: np.ndarray  # [C] int32, the option chosen, or NO_ANSWER
    finite: np.ndarray  # [C] bool


def score(readings: Readings, encoded: Encoded) -> Verdicts:
    """Scores readings [C, Q'] of one question, Q' at least its own number of reads Q.

    The log-likelihood of an option is the sum over the positions that belong to it. Where options
    tie, the first one is the answer, as in lm-evaluation-harness.
    """
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
    return Verdicts(
        verdict=finite & (answer == gold),
        margin=np.where(finite, scores[:, gold] - rival, -np.inf).astype(np.float32),
        answer=np.where(finite, answer, NO_ANSWER).astype(np.int32),
        finite=finite,
    )
