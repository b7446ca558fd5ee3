"""`Verdicts`: the answers of paths to questions with their margins; `Completion`: a decoded one."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy.special import log_softmax

from cola_jax.scoring.grader import Grade

GRADED = (Grade.RIGHT, Grade.WRONG)
NO_ANSWER = -1  # the answer of a path that is not finite, or that chose none of the options


@dataclasses.dataclass(frozen=True)
class Completion:
    """A decoded text, its answer and its grade."""

    text: str  # up to its end
    answer: str | None  # found in the text, None where there is none
    finish: str  # the reason of its end: see `decoder`
    truncated: bool  # the token limit ended it before the answer was complete
    grade: Grade | None  # None without a gold answer
    tokens: tuple[int, ...]  # the ids decoded
    logprob: float  # natural, of all of them


class Verdicts(NamedTuple):
    """The answers of paths to questions; fields [B, C], or [C] for one question."""

    verdict: np.ndarray  # bool, right or wrong
    margin: np.ndarray  # float32, score of gold minus its best rival's; -inf if not finite
    answer: np.ndarray  # int32, the option chosen, or NO_ANSWER
    scores: np.ndarray  # [..., J] float32, of every option or decoy; NaN for options not there
    # float32, the best score outside the options: -inf where there is none, NaN where each option
    # is judged alone, against 0
    outside: np.ndarray
    finite: np.ndarray  # bool
    completion: np.ndarray  # of Completion where answers are decoded, else of None
    # bool, whether scores are natural log-likelihoods, or leads of one over another
    log_likelihoods: np.ndarray
    # [..., J] float32, natural, that decoding at temperature 1 gives each answer to an open
    # question; NaN where that is not known
    answer_logprobs: np.ndarray

    def __repr__(self) -> str:
        count = np.size(self.verdict)
        shape = [*np.shape(self.verdict)]
        lost = count - int(np.sum(self.finite))
        text = f"Verdicts({shape}: {int(np.sum(self.verdict))} of {count} right"
        return f"{text}, {lost} not finite)" if lost else f"{text})"

    @property
    def graded(self) -> np.ndarray:
        """False where the grader failed, so that the answer may be right or wrong."""
        known = [each is None or each.grade in GRADED for each in self.completion.flat]
        return np.array(known, bool).reshape(self.completion.shape)

    @property
    def logprobs(self) -> np.ndarray:
        """The log-probability of each option among the options, [..., J] float64.

        -inf for options that are not there; NaN where a path is not finite, nothing is scored, each
        option is judged alone, or scores are not log-likelihoods, such as those per character.
        """
        known = ~np.isnan(self.scores)
        compared = self.log_likelihoods & ~np.isnan(self.outside)
        scored = (self.finite & compared & known.any(axis=-1))[..., None]
        scores = np.where(known, self.scores.astype(np.float64), -np.inf)
        return np.where(scored, log_softmax(np.where(scored, scores, 0.0), axis=-1), np.nan)

    @classmethod
    def empty(cls, shape: tuple[int, ...], options: int) -> "Verdicts":
        """Make verdicts to be filled: wrong, not finite, and without an answer.

        `shape` is that of the fields, such as [B, C]; a question has J = `options`.
        """
        return cls(
            verdict=np.zeros(shape, bool),
            margin=np.full(shape, -np.inf, np.float32),
            answer=np.full(shape, NO_ANSWER, np.int32),
            scores=np.full((*shape, options), np.nan, np.float32),
            outside=np.full(shape, -np.inf, np.float32),
            finite=np.zeros(shape, bool),
            completion=np.full(shape, None, object),
            log_likelihoods=np.zeros(shape, bool),
            answer_logprobs=np.full((*shape, options), np.nan, np.float32),
        )

    @classmethod
    def of_scores(
        cls,
        scores: np.ndarray,
        gold: int | np.ndarray,
        finite: np.ndarray | None = None,
        *,
        answer: np.ndarray | None = None,
        outside: float | np.ndarray = -np.inf,
        log_likelihoods: bool | np.ndarray = False,
        answer_logprobs: np.ndarray | None = None,
    ) -> "Verdicts":
        """Make verdicts of the scores of every option: right where gold is the answer.

        Args:
          scores: [..., J], the higher the better.
          gold: the right option, or one for each entry of the leading axes.
          finite: whether a path was finite; by default whether its scores are.
          answer: the option chosen; by default the first with the highest score.
          outside: the best score outside the options, for each entry of the leading axes; NaN
            where each option is judged alone, against 0.
          log_likelihoods: whether scores are natural log-likelihoods, or leads of one over another.
          answer_logprobs: [..., J], of decoding each answer to an open question.
        """
        # float32 as in a run, so that verdicts read from it have the same margins
        scores = np.asarray(scores, np.float32)
        finite = np.asarray(np.isfinite(scores).all(axis=-1) if finite is None else finite)
        gold = np.broadcast_to(np.asarray(gold), finite.shape)
        outside = np.broadcast_to(np.asarray(outside, np.float32), finite.shape)
        if answer is None:
            answer = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=-1)
        verdict, margin = judge(np, scores, gold, finite, answer, outside)
        if answer_logprobs is None:
            answer_logprobs = np.full(scores.shape, np.nan)
        return cls(
            verdict=verdict,
            margin=margin,
            answer=np.where(finite, np.asarray(answer), NO_ANSWER).astype(np.int32),
            scores=np.where(finite[..., None], scores, np.nan).astype(np.float32),
            outside=outside.copy(),
            finite=finite,
            completion=np.full(finite.shape, None, object),
            log_likelihoods=np.broadcast_to(log_likelihoods, finite.shape).copy(),
            answer_logprobs=np.where(finite[..., None], answer_logprobs, np.nan).astype(np.float32),
        )

    @classmethod
    def of_margins(cls, margin: ArrayLike) -> "Verdicts":
        """Make verdicts of a metric of your own, such as [B, C]: right where it is 0 or more.

        It is the score of gold, judged against 0; there are none of other options.
        """
        margin = np.asarray(margin)
        answer = np.where(margin >= 0, 0, NO_ANSWER)
        return cls.of_scores(margin[..., None], 0, answer=answer, outside=np.nan)

    def of_gold_alone(self, gold: np.ndarray, options: int) -> "Verdicts":
        """Read verdicts [B, C] of one score as those of gold [B], the only one scored of J."""
        index = np.broadcast_to(gold[:, None, None], self.scores.shape)
        scores = np.full((*self.verdict.shape, options), np.nan, np.float32)
        np.put_along_axis(scores, index, self.scores, axis=-1)
        answer = np.where(self.answer == 0, gold[:, None], NO_ANSWER).astype(np.int32)
        unknown = np.full_like(scores, np.nan)
        return self._replace(scores=scores, answer=answer, answer_logprobs=unknown)

    def of_target(self, target: int | np.ndarray) -> "Verdicts":
        """Read the same evaluations with another option, or another for each, as the right one."""
        scored = self.of_scores(
            self.scores,
            target,
            self.finite,
            answer=self.answer,
            outside=self.outside,
            log_likelihoods=self.log_likelihoods,
            answer_logprobs=self.answer_logprobs,
        )
        return scored._replace(scores=self.scores, completion=self.completion)

    def put(self, index: tuple, verdicts: "Verdicts") -> None:
        """Write verdicts at an index of the leading axes; they may have other options."""
        options = min(self.scores.shape[-1], verdicts.scores.shape[-1])
        for name, column, new in zip(self._fields, self, verdicts, strict=True):
            if name in ("scores", "answer_logprobs"):
                column[(*index, ..., slice(options))] = new[..., :options]
            else:
                column[index] = new

    def take(self, index: tuple | int | slice | list[int] | np.ndarray) -> "Verdicts":
        """Index the leading axes of every field, as numpy does."""
        return Verdicts(*(column[index] for column in self))


def judge(
    xp: Any, scores: Any, target: Any, finite: Any, answer: Any, outside: Any
) -> tuple[Any, Any]:
    """Compare scores [..., J] with those of a target [...]; return verdicts and margins [...].

    `xp` is the module of the arrays, NumPy or jax.numpy; the others are fields of `Verdicts`.
    """
    # scores of a path that is not finite, and of an option that is not there, mean nothing
    known = xp.where(finite[..., None], xp.where(xp.isnan(scores), -xp.inf, scores), 0.0)
    is_target = xp.arange(scores.shape[-1]) == target[..., None]
    best_other = xp.where(is_target, -xp.inf, known).max(axis=-1)
    rival = xp.where(xp.isnan(outside), 0, xp.maximum(best_other, outside))
    with np.errstate(invalid="ignore", over="ignore"):  # an option alone has no rival
        margin = xp.where(is_target, known, 0.0).sum(axis=-1) - rival
    return finite & (answer == target), xp.where(finite, margin, -xp.inf).astype(xp.float32)
