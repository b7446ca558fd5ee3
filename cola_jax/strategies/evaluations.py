"""`Evaluations`: what is known of a batch of questions, so that no path is evaluated twice."""

from collections.abc import Sequence

import numpy as np

from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring.scorer import BatchEvaluator, Evaluate
from cola_jax.scoring.verdicts import Verdicts


class Evaluations:
    """Evaluates paths for several searches of each question, each path of a question once."""

    def __init__(self, evaluate: Evaluate, questions: Sequence[Question]):
        """Takes what evaluates paths of the B questions."""
        self.evaluate, self.questions = evaluate, questions
        own = isinstance(evaluate, BatchEvaluator)
        self.of_target = evaluate.of_target if own else Verdicts.of_target
        self.waves: list[Verdicts] = []  # fields [B, C], as the evaluator returned them
        # for each question, the wave and the column of every path known, by the path's bytes
        self.known: list[dict[bytes, tuple[int, int]]] = [{} for _ in questions]

    def given(self, question: int, plain: Verdicts) -> list[int]:
        """Returns the pretrained model's answers to a question in every variant asked.

        `plain` [B, 1] are the verdicts of the identity path.
        """
        if isinstance(self.evaluate, BatchEvaluator):
            return self.evaluate.given(question, plain)
        return [int(plain.answer[question, 0])]

    def add(self, paths: np.ndarray, verdicts: Verdicts) -> None:
        """Adds what is known of paths [B, C, P], with verdicts [B, C]."""
        paths = np.ascontiguousarray(paths, np.int32)
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            self.known[b][paths[b, c].tobytes()] = len(self.waves), c
        self.waves.append(verdicts)

    def __call__(
        self, question: np.ndarray, target: np.ndarray, paths: np.ndarray
    ) -> tuple[Verdicts, np.ndarray]:
        """Returns the verdicts [S, C] of S searches, and which of them were known before [S, C].

        Args:
          question: [S], the question of each search.
          target: [S], the option that it looks for.
          paths: [S, C, P], STOP-padded; an entry of STOP alone is none.
        """
        paths = np.ascontiguousarray(paths, np.int32)
        reused = self.run(question, paths)
        most = max(1, *(len(each.options) for each in self.questions))
        out = Verdicts.empty(paths.shape[:2], most)
        present = paths[:, :, 0] != STOP
        for s, c in np.argwhere(present).tolist():
            wave, column = self.known[question[s]][paths[s, c].tobytes()]
            out.put((s, c), self.waves[wave].take((question[s], column)))
        gold = np.array([each.answer for each in self.questions])[question]
        others = present & (target != gold)[:, None]
        if others.any():
            searches, _ = index = np.nonzero(others)
            out.put(index, self.of_target(out.take(index), target[searches]))
        return out, reused

    def run(self, question: np.ndarray, paths: np.ndarray) -> np.ndarray:
        """Evaluates the paths [S, C, P] that are new; returns which of all are not [S, C]."""
        new: list[dict[bytes, np.ndarray]] = [{} for _ in self.questions]
        reused = paths[:, :, 0] != STOP
        for s, c in np.argwhere(reused).tolist():
            b, path = question[s], paths[s, c].tobytes()
            if path not in self.known[b] and path not in new[b]:
                new[b][path] = paths[s, c]
                reused[s, c] = False
        width = max(map(len, new))
        if width:
            wave = np.full((len(new), width, paths.shape[2]), STOP, np.int32)
            for b, rows in enumerate(new):
                for c, row in enumerate(rows.values()):
                    wave[b, c] = row
            self.add(wave, self.evaluate(wave))
        return reused
