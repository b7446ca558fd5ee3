"""`RobustEvaluator`: a path is right where it is right in every variant of a question."""

from collections.abc import Sequence

import numpy as np

from cola_jax.execute.evaluator import Workload
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.scorer import BatchEvaluator, Scorer, most_options
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts


class RobustEvaluator(BatchEvaluator):
    """Evaluates paths on V variants of B questions, which are rows of one batch.

    An option's score is the least of its margins in any variant; the answer is what all say, or
    none. A verdict is right where the target is the answer in all.
    """

    def __init__(
        self,
        scorer: Scorer,
        worker: Worker,
        batches: Sequence[Sequence[Encoded]],
        places: Sequence[Sequence[Sequence[int]]],
        workload: Workload,
    ):
        """Takes the same questions in each variant, and where each of their options stands there.

        The scorer reads the model; one that decodes has completions, which are not kept.
        """
        super().__init__(scorer, worker, batches[0])
        self.places = places
        rows = [encoded for batch in batches for encoded in batch]
        self.inner = scorer.evaluator(worker, rows, workload)
        self.together = max(1, self.inner.together // len(places))
        # [B, V], the answers to the first path evaluated of each question, and its scores
        self.plain = np.full((len(self.batch), len(places)), NO_ANSWER)
        self.plain_scores: list[np.ndarray] = [np.zeros(0)] * len(self.batch)  # [V, J] of each
        self.asked = np.zeros(len(self.batch), bool)

    def __call__(self, paths: np.ndarray) -> Verdicts:
        verdicts = self.inner(np.tile(paths, (len(self.places), 1, 1)))
        size, most = len(self.batch), most_options(self.batch)
        out = Verdicts.empty(paths.shape[:2], most)
        answers = np.full((*paths.shape[:2], len(self.places)), NO_ANSWER)
        for b, encoded in enumerate(self.batch):
            present = np.flatnonzero(paths[b, :, 0] != STOP)
            each = [verdicts.take((v * size + b, present)) for v in range(len(self.places))]
            places = [np.asarray(of_questions[b]) for of_questions in self.places]
            margins = [
                np.stack([self.inner.of_target(one, int(j)).margin for j in place], axis=1)
                for one, place in zip(each, places, strict=True)
            ]
            for v, (one, place) in enumerate(zip(each, places, strict=True)):
                answers[b, present, v] = options_at(one.answer, place)
            if len(present) and not self.asked[b]:
                scores = [one.scores[0, place] for one, place in zip(each, places, strict=True)]
                self.plain_scores[b] = np.stack(scores)
            own = answers[b, present]
            agreed = np.where((own == own[:, :1]).all(axis=1), own[:, 0], NO_ANSWER)
            robust = Verdicts.of_scores(
                np.min(margins, axis=0),
                encoded.question.answer,
                np.all([one.finite for one in each], axis=0),
                answer=agreed,
                rival=np.zeros(len(present)),
            )
            out.put((b, present), robust)
        first = (paths[:, 0, 0] != STOP) & ~self.asked
        self.plain[first] = answers[first, 0]
        self.asked |= first
        return out

    def of_target(self, verdicts: Verdicts, target: int | np.ndarray) -> Verdicts:
        # a score is the least of an option's margins already
        return verdicts.of_target(target, rival=np.zeros(verdicts.finite.shape))

    def given(self, question: int, plain: Verdicts) -> list[int]:
        assert self.asked[question], "the identity path is evaluated first"
        return self.plain[question].tolist()

    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> list[bool | None]:
        variants = len(self.places)
        each = self.inner.confirm(np.tile(paths, (variants, 1)), verdicts)
        rows = [each[b :: len(paths)] for b in range(len(paths))]
        return [None if None in row else all(row) for row in rows]

    def release(self) -> None:
        self.inner.close()


def options_at(answers: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns the options that stand at these places; NO_ANSWER for none."""
    option = np.full(place.max(initial=0) + 2, NO_ANSWER)
    option[place] = np.arange(len(place))
    return option[np.where(answers == NO_ANSWER, -1, answers)]
