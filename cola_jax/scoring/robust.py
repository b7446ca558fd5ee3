"""Robust verdicts: a path is right where it is right in every variant of a question."""

from collections.abc import Sequence

import numpy as np

from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

Places = Sequence[Sequence[Sequence[int]]]  # for each variant and question, of each of its options


def robust(evaluate: Evaluate, questions: Sequence[Question], places: Places) -> Evaluate:
    """Combines evaluations of V variants of B questions.

    Args:
      evaluate: takes paths [V * B, C, P], first those of all questions in the first variant.
      places: where each option of the questions stands in each variant.

    Returns:
      A function from paths [B, C, P] to Verdicts [B, C]: an option's score is the least of its
      margins in any variant; the answer is what all say, or none.
    """

    def evaluate_all(paths: np.ndarray) -> Verdicts:
        return combine(evaluate(np.tile(paths, (len(places), 1, 1))), questions, places, paths)

    return evaluate_all


def combine(
    verdicts: Verdicts, questions: Sequence[Question], places: Places, paths: np.ndarray
) -> Verdicts:
    """Combines verdicts [V * B, C] of paths [B, C, P], as `robust` does."""
    size = len(questions)
    out = Verdicts.empty(paths.shape[:2], max(len(each.options) for each in questions))
    for b, question in enumerate(questions):
        present = np.flatnonzero(paths[b, :, 0] != STOP)
        variants = [verdicts.take((v * size + b, present)) for v in range(len(places))]
        own_places = [np.asarray(of_questions[b]) for of_questions in places]
        margins = [
            np.stack([each.of_target(int(j)).margin for j in place], axis=1)
            for each, place in zip(variants, own_places, strict=True)
        ]
        answers = np.stack(
            [
                options_at(each.answer, place)
                for each, place in zip(variants, own_places, strict=True)
            ]
        )
        agreed = np.where((answers == answers[:1]).all(axis=0), answers[0], NO_ANSWER)
        least = Verdicts.of_scores(
            np.min(margins, axis=0),
            question.answer,
            np.all([each.finite for each in variants], axis=0),
            answer=agreed,
            outside=np.nan,
        )
        out.put((b, present), least)
    return out


def options_at(answers: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns the options that stand at these places; NO_ANSWER for none."""
    option = np.full(place.max(initial=0) + 2, NO_ANSWER)
    option[place] = np.arange(len(place))
    return option[np.where(answers == NO_ANSWER, -1, answers)]
