"""`Outcome`: its readings of evaluations; `History`: what is better."""

import numpy as np
import pytest

from cola_jax.question import Question
from cola_jax.scoring import Completion, Grade, Verdicts
from cola_jax.strategies.outcome import History, Leaf, Outcome


def outcome(*evaluations):
    """Make an outcome of (path, verdict, margin)."""
    paths, verdict, margin = zip(*evaluations, strict=True)
    count = len(paths)
    verdicts = Verdicts.empty((count,), 2)._replace(
        verdict=np.array(verdict), margin=np.array(margin, np.float32)
    )
    zeros = np.zeros(count, int)
    question = Question("q", "?", ("a", "b"), 0)
    edits, reused = np.zeros((count, 4), int), np.zeros(count, bool)
    return Outcome(question, 0, list(paths), verdicts, zeros, zeros - 1, edits, reused)


FULL, TWO, OTHER, ONE, LONG = (0, 1, 2), (0, 1), (0, 2), (0,), (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("evaluations", "best", "front"),
    [
        ([(FULL, True, 1.0), (TWO, True, 0.5), (ONE, False, -1.0)], 1, [1, 2]),
        ([(FULL, False, -1.0), (LONG, True, 0.5), (TWO, False, -1.0)], 1, [1, 2]),
        ([(FULL, False, -1.0), (ONE, True, 0.5), (TWO, False, -1.0)], 1, [1]),
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, True, 0.7)], 2, [2]),  # the larger margin
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, False, -1.0)], 1, [1]),  # as short, wrong
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, True, 0.5)], 1, [1]),  # the first
        ([(FULL, False, -1.0), (TWO, False, -3.0), (OTHER, False, -2.0)], None, [2]),
        ([(FULL, True, 1.0)], 0, [0]),
    ],
)
def test_outcome_has_shortest_correct_path_and_front(evaluations, best, front):
    made = outcome(*evaluations)
    assert made.shortest_correct == best
    assert made.front == front
    assert made.baseline == evaluations[0][1]
    assert made.evaluations == len(evaluations)


def test_outcome_shows_its_best_path():
    made = outcome((FULL, False, -1.0), (OTHER, True, 0.5))
    assert repr(made) == "Outcome(question 'q', wrong before, 2 paths, shortest correct one: 0,2)"


def test_ungraded_answer_is_neither_right_nor_wrong():
    made = outcome((FULL, True, 1.0), (ONE, False, -1.0), (TWO, False, -2.0))
    grades = (Grade.RIGHT, Grade.UNGRADED, Grade.WRONG)
    made.verdicts.completion[:] = [
        Completion("x", "x", "stop", False, grade, (1,), -1.0) for grade in grades
    ]
    assert made.front == [0, 2]
    assert made.shortest(False) == 2
    assert made.baseline is True
    made.verdicts.completion[0] = made.verdicts.completion[1]
    assert made.baseline is None
    assert made.shortest_correct is None
    history = History(made.question, 0, 0)  # nor is another answer better than it
    leaves = [Leaf(path) for path in made.paths]
    right = made.verdicts._replace(verdict=np.ones(3, bool))
    history.record(0, leaves, right, np.zeros(3, bool))
    assert not history.improved
