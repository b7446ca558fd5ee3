"""`Outcome`: its readings of evaluations; `History`: how waves are recorded."""

import numpy as np
import pytest

from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring import Completion, Grade, Verdicts
from cola_jax.strategies.outcome import History, Leaf, Outcome, as_ids, as_text
from tests.strategies.formula import GOLD, questions


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


def ungraded(grade):
    return Completion("x", "x", "stop", False, grade, (1,), -1.0)


def test_ungraded_answer_is_neither_right_nor_wrong():
    made = outcome((FULL, True, 1.0), (ONE, False, -1.0), (TWO, False, -2.0))
    grades = (Grade.RIGHT, Grade.UNGRADED, Grade.WRONG)
    made.verdicts.completion[:] = [ungraded(grade) for grade in grades]
    assert made.front == [0, 2]
    assert made.shortest(False) == 2
    assert made.baseline is True
    made.verdicts.completion[0] = made.verdicts.completion[1]
    assert made.baseline is None
    assert made.shortest_correct is None


ROOT_LEAF = Leaf(as_text(FULL))


def test_history_records_waves_in_order():
    history = History(questions(1)[0], GOLD, 0)
    waves = {
        0: ([ROOT_LEAF], [[0.0, 1]]),
        1: (
            [Leaf(as_text(path), as_text(FULL), (0, 1, 1, 0)) for path in (ONE, TWO)],
            [[3, 1], [0, 4]],
        ),
        2: ([Leaf(as_text(LONG), as_text(TWO), (1, 1, 2, 3))], [[0.0, 5]]),
    }
    for wave, (leaves, scores) in waves.items():
        known = np.full(len(leaves), wave == 1)
        history.record(wave, leaves, Verdicts.of_scores(np.array(scores), GOLD), known)
    made = history.outcome()
    assert made.paths == [FULL, ONE, TWO, LONG]
    assert made.verdicts.margin.tolist() == [1, -2, 4, 5]
    assert made.verdicts.scores.tolist() == [[0, 1], [3, 1], [0, 4], [0, 5]]
    assert made.wave.tolist() == [0, 1, 1, 2]
    assert made.parent.tolist() == [-1, 0, 0, 2]
    assert made.edits.tolist() == [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 2, 3]]
    assert made.lengths.tolist() == [3, 1, 2, 4]
    assert made.reused.tolist() == [False, True, True, False]
    assert made.describe_edit(0) is None
    assert made.describe_edit(3) == "repeat 2 at 1 x3"


@pytest.mark.parametrize(
    ("right", "then", "improved"),
    [
        (False, [(LONG, True)], True),  # wrong before, right after
        (False, [(ONE, False), (LONG, False)], False),
        (True, [(ONE, True)], True),  # fewer layers
        (True, [(ONE, False), (LONG, True)], False),
        (True, [], False),
        (None, [(ONE, True)], False),  # the grader failed on the model's own answer
    ],
)
def test_improved_is_right_after_wrong_or_shorter(right, then, improved):
    history = History(questions(1)[0], GOLD, 0)
    for wave, (path, verdict) in enumerate([(FULL, right), *then]):
        verdicts = Verdicts.empty((1,), 4)
        verdicts.verdict[0] = verdict
        if verdict is None:
            verdicts.completion[0] = ungraded(Grade.UNGRADED)
        history.record(wave, [Leaf(as_text(path))], verdicts, np.zeros(1, bool))
    assert history.improved == improved


def test_paths_as_text_and_back():
    paths = [(0, 5, 300), (70_000,)]
    assert as_ids([*map(as_text, paths), ""], 4).tolist() == [
        [0, 5, 300, STOP],
        [70_000, STOP, STOP, STOP],
        [STOP] * 4,
    ]
