"""`Outcome`: what it says of evaluations; `History`: how they are recorded."""

import numpy as np
import pytest

from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring import Completion, Grade, Verdicts
from cola_jax.strategies.outcome import History, Outcome, Proposals
from tests.strategies.formula import GOLD, questions


def outcome(*evaluations):
    """Makes an outcome of (path, verdict, margin)."""
    paths, verdict, margin = zip(*evaluations, strict=True)
    count = len(paths)
    verdicts = Verdicts.empty((count,), 2)._replace(
        verdict=np.array(verdict), margin=np.array(margin, np.float32)
    )
    zeros = np.zeros(count, int)
    question = Question("q", "?", ("a", "b"), 0)
    edits, reused = np.zeros((count, 4), int), np.zeros(count, bool)
    return Outcome(question, 0, list(paths), verdicts, zeros, zeros - 1, edits, reused)


ROOT_PATH = np.array([0, 1, 2, STOP])
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
    assert made.shortened == (best is not None and len(evaluations[best][0]) < 3)


def test_ungraded_answer_is_neither_right_nor_wrong():
    made = outcome((FULL, True, 1.0), (ONE, False, -1.0), (TWO, False, -2.0))
    made.verdicts.completion[:] = [
        Completion("x", "x", "stop", False, grade, (1,), -1.0)
        for grade in (Grade.RIGHT, Grade.UNGRADED, Grade.WRONG)
    ]
    assert made.front == [0, 2]
    assert made.shortest(False) == 2
    assert made.baseline is True
    made.verdicts.completion[0] = made.verdicts.completion[1]
    assert made.baseline is None
    assert made.shortest_correct is None


def proposals(*rows, width=4):
    """Makes proposals, for each question a list of (node, path), padded with none."""
    most = max(map(len, rows))
    paths = np.full((len(rows), most, width), STOP, np.int32)
    nodes = np.full((len(rows), most), -1)
    for b, row in enumerate(rows):
        for c, (node, path) in enumerate(row):
            paths[b, c, : len(path)], nodes[b, c] = path, node
    edits = np.stack([nodes, nodes * 0 + 1, nodes * 0 + 2, nodes * 0 + 3], axis=-1)
    return Proposals(paths, nodes, np.where(nodes >= 0, 0, -1), edits)


def record(history, proposals, verdicts, reused=False):
    history.record(proposals, verdicts, np.full(proposals.node.shape, reused))


def test_history_records_waves_in_order():
    history = History(questions(2), [GOLD, 0], ROOT_PATH, 4)
    root = Proposals.root(ROOT_PATH, 2)
    record(history, root, Verdicts.of_scores(np.array([[[0.0, 1]], [[1.0, 0]]]), GOLD))
    second = proposals([(1, ONE), (2, TWO)], [])
    wave = Verdicts.of_scores(np.array([[[3.0, 1], [0, 4]]] * 2), GOLD)
    record(history, second, wave, reused=True)
    third = proposals([(3, LONG)], [(1, OTHER)])
    record(history, third, Verdicts.of_scores(np.array([[[0.0, 5]], [[0, 6]]]), GOLD))
    first, other = history.outcomes()
    assert first.paths == [FULL, ONE, TWO, LONG]
    assert other.paths == [FULL, OTHER]
    assert first.verdicts.margin.tolist() == [1, -2, 4, 5]
    assert other.verdicts.margin.tolist() == [-1, 6]
    assert first.verdicts.scores[:, :2].tolist() == [[0, 1], [3, 1], [0, 4], [0, 5]]
    assert first.wave.tolist() == [0, 1, 1, 2]
    assert other.wave.tolist() == [0, 2]
    assert first.parent.tolist() == [-1, 0, 0, 0]
    assert first.edits.tolist() == [[0] * 4, *[[i, 1, 2, 3] for i in (1, 2, 3)]]
    assert other.edits.tolist() == [[0] * 4, [1, 1, 2, 3]]
    assert first.lengths.tolist() == [3, 1, 2, 4]
    assert other.describe_edit(0) is None
    assert (first.target, other.target) == (GOLD, 0)
    assert first.reused.tolist() == [False, True, True, False]
    assert other.describe_edit(1) == "repeat 2 at 1 x3"


@pytest.mark.parametrize(
    ("right", "then", "improved"),
    [
        (False, [(LONG, True)], True),  # wrong before, right after
        (False, [(ONE, False), (LONG, False)], False),
        (True, [(ONE, True)], True),  # fewer layers
        (True, [(ONE, False), (LONG, True)], False),
        (True, [], False),
    ],
)
def test_improved_is_right_after_wrong_or_shorter(right, then, improved):
    history = History(questions(1), [GOLD], ROOT_PATH, 3)
    rows = [(FULL, right), *then]
    verdicts = Verdicts.empty((1, len(rows)), 4)
    verdicts.verdict[0] = [verdict for _, verdict in rows]
    record(history, proposals([(i, path) for i, (path, _) in enumerate(rows)]), verdicts)
    assert history.improved.tolist() == [improved]


def test_improved_needs_a_graded_baseline():
    history = History(questions(1), [GOLD], ROOT_PATH, 2)
    verdicts = Verdicts.empty((1, 2), 4)
    verdicts.verdict[0, 1] = True
    verdicts.completion[0, 0] = Completion("7", "7", "stop", False, Grade.UNGRADED, (1,), -1.0)
    record(history, proposals([(0, FULL), (1, ONE)]), verdicts)
    assert history.improved.tolist() == [False]
