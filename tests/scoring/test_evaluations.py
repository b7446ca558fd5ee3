"""The cache of evaluations: what is evaluated, reused and written."""

import numpy as np
import pytest

from cola_jax.path import STOP, pad_lists, unpad_path
from cola_jax.question import Question
from cola_jax.scoring import Verdicts
from cola_jax.scoring.evaluations import Evaluations

POSITIONS = 4
TWO = [Question(name, "?", ("x", "y", "z"), 1) for name in ("a", "b")]


def pad(rows):
    return pad_lists(rows, POSITIONS)


def scores(paths):
    """Score options by the sum and the length of a path, and gold by nothing."""
    present = paths != STOP
    total, length = np.where(present, paths, 0).sum(-1), present.sum(-1)
    return np.stack([total, np.ones_like(total), length], axis=-1)


def judge(paths):
    return Verdicts.of_scores(scores(paths), 1)


class Counted:
    """An evaluate and a writer that remember their calls, as lists of paths of each question."""

    def __init__(self):
        self.calls, self.written = [], []

    def __call__(self, paths):
        self.calls.append(listed(paths))
        return judge(paths)

    def write(self, paths, verdicts):
        self.written.append(paths)
        np.testing.assert_array_equal(verdicts.scores, scores(pad(paths)))


def listed(paths):
    return [[unpad_path(path) for path in row if path[0] != STOP] for row in paths]


def stored(*paths):
    """Verdicts [1] of paths that were evaluated before; not finite, to tell them from new ones."""
    made = judge(pad([paths]))._replace(finite=np.zeros((1, len(paths)), bool))
    return {path: made.take((0, slice(i, i + 1))) for i, path in enumerate(paths)}


@pytest.fixture
def counted():
    return Counted()


def test_call_evaluates_no_path_twice(counted):
    evaluations = Evaluations(counted, TWO, write=counted.write)
    evaluations(pad([[(0,), (1,), (0,)], [(2,)]]))
    rows = [[(0,), (3,), (1,)], [(2,), (0, 1, 2)]]
    verdicts = evaluations(pad(rows))
    assert counted.calls == [[[(0,), (1,)], [(2,)]], [[(3,)], [(0, 1, 2)]]]
    for ours, expected in zip(verdicts[:6], judge(pad(rows))[:6], strict=True):
        np.testing.assert_array_equal(ours[0], expected[0])
        np.testing.assert_array_equal(ours[1, :2], expected[1, :2])
    assert not verdicts.finite[1, 2]
    evaluations(pad(rows))
    assert counted.written == counted.calls
    assert len(counted.calls) == 2  # all known: nothing is called
    assert evaluations.of_question(0, [(1,), (0,)]).scores[:, 0].tolist() == [1, 0]


def test_prefetched_paths_are_written_at_once_and_are_new_to_the_first_search(counted):
    evaluations = Evaluations(counted, TWO, write=counted.write)
    paths = [[(0,), (1,)], [(2,)]]
    evaluations.prefetch(paths, judge(pad(paths)))
    assert counted.written == [paths]
    assert evaluations.find(0, (2,)) is None
    found = evaluations.find(1, (2,))
    assert found is not None
    assert found.scores.tolist() == [[2, 1, 1]]
    asked = [[(0,)], [(0,)], [(2,)]]
    _, reused = evaluations.of_searches([0, 0, 1], [1, 0, 1], asked, POSITIONS)
    assert reused.tolist() == [[False], [True], [False]]
    assert not counted.calls


def test_of_searches_reads_each_target_of_shared_evaluations(counted):
    """Two searches of a question evaluate a path once; the second has it reused."""
    evaluations = Evaluations(counted, TWO)
    question = [0, 1, 0]
    target = [1, 1, 2]
    rows = [[(0,), (3,)], [(0,)], [(3,), (1, 2)]]
    verdicts, reused = evaluations.of_searches(question, target, rows, POSITIONS)
    assert counted.calls == [[[(0,), (3,), (1, 2)], [(0,)]]]
    assert reused.tolist() == [[False, False], [False, False], [True, False]]
    for s, row in enumerate(rows):
        expected = judge(pad([row])).of_target(int(target[s]))
        assert verdicts.margin[s, : len(row)].tolist() == expected.margin[0].tolist()
        assert verdicts.verdict[s, : len(row)].tolist() == expected.verdict[0].tolist()


def test_known_is_reused_and_resumed_is_as_if_new(counted):
    evaluations = Evaluations(
        counted,
        TWO,
        known=[stored((0,)), {}],
        resumed=[{}, stored((0,), (1,))],
        write=counted.write,
    )
    question = [0, 1]
    target = [1, 1]
    paths = [[(0,), (1,)], [(0,), (2,)]]
    verdicts, reused = evaluations.of_searches(question, target, paths, POSITIONS)
    assert counted.calls == counted.written == [[[(1,)], [(2,)]]]
    assert verdicts.finite.tolist() == [[False, True], [False, True]]
    assert reused.tolist() == [[True, False], [False, False]]
    assert evaluations.of_searches(question, target, paths, POSITIONS)[1].all()
    assert list(evaluations.known[1]) == [(0,), (2,)]  # not (1,), which nobody needs


def test_call_size_cuts_a_wave_and_what_ran_before_a_failure_is_written(counted):
    def fail(paths):
        if len(counted.calls) == 2:
            raise RuntimeError("no memory")
        return counted(paths)

    evaluations = Evaluations(fail, TWO, write=counted.write, call_size=2)
    rows = [[(0,), (1,), (2,)], [(0,), (1,)]]
    with pytest.raises(RuntimeError, match="no memory"):
        evaluations(pad(rows))
    assert counted.written == counted.calls == [[[(0,)], [(0,)]], [[(1,)], [(1,)]]]
    evaluations.evaluate = counted
    np.testing.assert_array_equal(evaluations(pad(rows)).scores[0], scores(pad(rows))[0])
    assert counted.written[2:] == [[[(2,)], []]]


def test_parts_are_written_as_they_are_known(counted):
    """Also where the others fail."""

    def in_parts(paths, keep):
        verdicts = judge(paths)
        entries = np.argwhere(paths[:, :, 0] != STOP)[::-1]
        for part in (entries[:2], entries[2:]):
            if len(counted.written) == 1:
                raise RuntimeError("no memory")
            if len(part):
                keep(part.T, verdicts.take(tuple(part.T)))
        return verdicts

    def write(paths, verdicts):
        counted.written.append(paths)

    evaluations = Evaluations(in_parts, TWO, write=write, in_parts=True)
    rows = [[(0,), (1,), (2,)], [(0,)]]
    with pytest.raises(RuntimeError, match="no memory"):
        evaluations(pad(rows))
    assert counted.written == [[[(2,)], [(0,)]]]
    counted.written = [None, None]  # others are written
    np.testing.assert_array_equal(evaluations(pad(rows)).scores[0], scores(pad(rows))[0])
    assert counted.written[2:] == [[[(1,), (0,)], []]]
