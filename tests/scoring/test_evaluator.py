"""`cola_jax.evaluator` and `cola_jax.evaluate`: of a model, and of a function of the user's own."""

import numpy as np
import pytest

import cola_jax
from cola_jax.execute.plan import Workload
from cola_jax.path import STOP, identity, random_paths
from cola_jax.question import Question
from cola_jax.runs.session import Session
from cola_jax.scoring import Options, Verdicts
from cola_jax.scoring.evaluator import question_batches
from cola_jax.tasks.task import TaskConfig
from tests import tiny

SAME = Workload(4, 8, same=True)
PATHS = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, 9, seed=0)]


def padded(count):
    """The same paths for every question, as an array."""
    row = [np.pad(path, (0, 12 - len(path)), constant_values=STOP) for path in PATHS]
    return np.array([row] * count, np.int32)


def lengths(paths):
    """An evaluate of its own: option 1 is right where a path has fewer than five layers."""
    assert isinstance(paths, np.ndarray)
    length = (paths != STOP).sum(axis=-1)
    scores = np.stack([-5.0 + 0 * length, -1.0 * length], axis=-1)
    return Verdicts.of_scores(scores, 1, paths[..., 0] != STOP)


@pytest.fixture(scope="module")
def questions():
    """Questions of unlike lengths, of three to five options."""
    long = Question("long", "which of the words " * 10, ("sun", "moon"), 0)
    return [*tiny.questions(3), long, *tiny.questions(5)[3:]]


@pytest.fixture(scope="module")
def together(model, words, questions):
    metrics = cola_jax.Metrics()
    evaluate = cola_jax.evaluator(model, questions, Options(words), metrics=metrics)
    return evaluate, evaluate([PATHS] * len(questions)), metrics


def test_evaluator_keeps_order_of_questions(model, words, questions, together):
    evaluate, verdicts, _ = together
    assert evaluate.questions == questions
    assert evaluate.num_layers == tiny.LAYERS
    assert verdicts.scores.shape == (6, 10, 5)
    for b, question in enumerate(questions):
        alone = cola_jax.evaluate(model, [question], PATHS, scorer=Options(words)).verdicts
        np.testing.assert_allclose(alone.margin[0], verdicts.margin[b], rtol=1e-4, atol=1e-4)
        count = len(question.options)
        assert alone.scores.shape == (1, 10, count)
        np.testing.assert_allclose(alone.scores[0], verdicts.scores[b, :, :count], rtol=1e-4)
        assert np.isnan(verdicts.scores[b, :, count:]).all()


@pytest.mark.parametrize("form", ["shared", "lists", "array"])
def test_evaluate_takes_paths_in_every_form(questions, form):
    paths = {
        "shared": PATHS,
        "lists": [PATHS] * len(questions),
        "array": padded(len(questions)),
    }[form]
    evaluation = cola_jax.evaluate(lengths, questions, paths, num_layers=tiny.LAYERS)
    assert evaluation.questions == questions
    for b in range(len(questions)):
        rows = [tuple(p[p != STOP].tolist()) for p in evaluation.paths[b]]
        assert rows == PATHS
        assert evaluation.verdicts.verdict[b].tolist() == [len(p) < 5 for p in PATHS]


def test_evaluate_refuses_what_it_cannot_run(model, questions):
    with pytest.raises(ValueError, match="no questions to evaluate"):
        cola_jax.evaluator(model, [], "options")
    with pytest.raises(ValueError, match="give a scorer as well"):
        cola_jax.evaluate(model, questions, PATHS)
    with pytest.raises(ValueError, match="give num_layers"):
        cola_jax.evaluate(lengths, questions, PATHS)
    with pytest.raises(ValueError, match=r"layer ids \[5\], but the model has layers 0..4"):
        cola_jax.evaluate(lengths, questions, [(0, 5)], num_layers=5)
    with pytest.raises(ValueError, match="paths for 1 questions, but 6"):
        cola_jax.evaluate(lengths, questions, [PATHS], num_layers=5)


def test_to_pandas_has_a_row_per_evaluation(questions):
    evaluation = cola_jax.evaluate(
        lengths, questions[:2], [(0, 1, 1, 2), (4, 0, 1, 2, 3)], num_layers=5
    )
    table = evaluation.to_pandas()
    assert table.to_dict("list") == {
        "question": ["q0", "q0", "q1", "q1"],
        "path": ["0,1,1,2", "4,0-3"] * 2,
        "length": [4, 5] * 2,
        "correct": [True, False] * 2,
        "margin": [1.0, 0.0] * 2,
        "answer": [1, 0] * 2,
    }


@pytest.fixture(scope="module")
def session(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    lines = tiny.write_questions(folder / "all.jsonl", 12).read_text().splitlines(keepends=True)
    (folder / "task.jsonl").write_text("".join(lines[:10]))
    (folder / "shots.jsonl").write_text("".join(lines[10:]))
    shown = {"shots": 2, "shots_file": str(folder / "shots.jsonl")}
    task = TaskConfig(str(folder / "task.jsonl"), variants=("instruction",), **shown)
    return Session.prepare(str(tiny_checkpoint), task.prepare)


def batches_of(session, count, workload=SAME):
    encoded = session.encoded[:count]
    return question_batches(encoded, workload, encoded)


def test_prefixes_depend_on_no_later_question(session):
    whole = batches_of(session, 10)
    for count in (2, 5, 9):
        some = batches_of(session, count)
        assert some.tokens == whole.tokens[:count]
        assert some.prefixes == whole.prefixes[:count]


def test_prefix_is_that_of_all_questions(session):
    sizes = set(batches_of(session, 10).prefixes)
    assert len(sizes - {0}) == 1
    assert batches_of(session, 1).prefixes == [0]  # one question shares with no other
