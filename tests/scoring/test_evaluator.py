"""Functions from paths to verdicts: of a model, of the user's own, and cached."""

import numpy as np
import pytest

import cola_jax
from cola_jax.execute.plan import Workload
from cola_jax.path import STOP, identity, pad_lists, random_paths, unpad_path
from cola_jax.question import Question
from cola_jax.scoring import Options, Verdicts
from cola_jax.scoring.evaluator import Evaluations, question_batches
from tests import tiny

PATHS = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, 9, seed=0)]


def lengths(paths):
    """Judge by length: option 1 is right where a path has fewer than five layers."""
    assert isinstance(paths, np.ndarray)
    length = (paths != STOP).sum(axis=-1)
    scores = np.stack([-5.0 + 0 * length, -1.0 * length], axis=-1)
    return Verdicts.of_scores(scores, 1, paths[..., 0] != STOP)


@pytest.fixture(scope="module")
def questions():
    """Questions of unlike lengths, of three to five options."""
    long = Question("long", "which of the words " * 10, ("sun", "moon"), 0)
    return [*tiny.questions(3), long, *tiny.questions(5)[3:]]


def test_evaluator_keeps_order_of_questions(model, words, questions):
    evaluate = cola_jax.evaluator(model, questions, Options(words))
    verdicts = evaluate([PATHS] * len(questions))
    assert evaluate.questions == questions
    assert evaluate.num_layers == tiny.LAYERS
    assert verdicts.scores.shape == (6, 10, 5)
    for b in (1, 3, 5):
        alone = cola_jax.evaluate(model, [questions[b]], PATHS, scorer="options").verdicts
        np.testing.assert_allclose(alone.margin[0], verdicts.margin[b], rtol=1e-4, atol=1e-4)
        count = len(questions[b].options)
        assert alone.scores.shape == (1, 10, count)
        np.testing.assert_allclose(alone.scores[0], verdicts.scores[b, :, :count], rtol=1e-4)
        assert np.isnan(verdicts.scores[b, :, count:]).all()


def test_evaluate_takes_paths_in_every_form(questions):
    each = [PATHS] * len(questions)
    for paths in (PATHS, each, pad_lists(each, 12)):
        evaluation = cola_jax.evaluate(lengths, questions, paths, num_layers=tiny.LAYERS)
        assert evaluation.questions == questions
        for b in range(len(questions)):
            assert [unpad_path(path) for path in evaluation.paths[b]] == PATHS
            assert evaluation.verdicts.verdict[b].tolist() == [len(p) < 5 for p in PATHS]


def test_evaluate_refuses_invalid_arguments(model, questions):
    for asked, scorer, message in (
        ([], "options", "no questions to evaluate"),
        (questions, "exact", "needs a format as well"),
    ):
        with pytest.raises(ValueError, match=message):
            cola_jax.evaluator(model, asked, scorer)
    for own, message in ((model, "give a scorer as well"), (lengths, "give num_layers")):
        with pytest.raises(ValueError, match=message):
            cola_jax.evaluate(own, questions, PATHS)


def test_to_pandas_has_a_row_per_evaluation(questions):
    evaluation = cola_jax.evaluate(
        lengths, questions[:2], [(0, 1, 1, 2), (4, 0, 1, 2, 3)], num_layers=5
    )
    assert evaluation.to_pandas().to_dict("list") == {
        "question": ["q0", "q0", "q1", "q1"],
        "path": ["0,1,1,2", "4,0-3"] * 2,
        "length": [4, 5] * 2,
        "correct": [True, False] * 2,
        "margin": [1.0, 0.0] * 2,
        "answer": [1, 0] * 2,
    }


def test_prefix_is_that_of_all_questions_and_depends_on_no_later_one(words):
    scorer = Options(words, shots=tiny.questions(12)[10:])
    encoded = [scorer.encode(question) for question in tiny.questions(10)]

    def batches_of(count):
        return question_batches(encoded[:count], Workload(4, 8, same=True), encoded[:count])

    whole = batches_of(10)
    assert len(set(whole.prefixes) - {0}) == 1
    for count in (2, 5, 9):
        part = batches_of(count)
        assert part.tokens == whole.tokens[:count]
        assert part.prefixes == whole.prefixes[:count]
    assert batches_of(1).prefixes == [0]  # one question shares with no other


# `Evaluations`

TWO = [Question(name, "?", ("x", "y", "z"), 1) for name in ("a", "b")]


def pad(rows):
    return pad_lists(rows, 4)


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
        self.written.append(listed(paths))
        np.testing.assert_array_equal(verdicts.scores, scores(paths))


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


def test_of_searches_reads_each_target_of_shared_evaluations(counted):
    """Two searches of a question evaluate a path once; the second has it reused."""
    evaluations = Evaluations(counted, TWO)
    question, target = np.array([0, 1, 0]), np.array([1, 1, 2])
    rows = [[(0,), (3,)], [(0,)], [(3,), (1, 2)]]
    verdicts, reused = evaluations.of_searches(question, target, pad(rows))
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
    question, target = np.array([0, 1]), np.array([1, 1])
    paths = pad([[(0,), (1,)], [(0,), (2,)]])
    verdicts, reused = evaluations.of_searches(question, target, paths)
    assert counted.calls == counted.written == [[[(1,)], [(2,)]]]
    assert verdicts.finite.tolist() == [[False, True], [False, True]]
    assert reused.tolist() == [[True, False], [False, False]]
    assert evaluations.of_searches(question, target, paths)[1].all()
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
