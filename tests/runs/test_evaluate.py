"""`evaluate`: paths of a model, of a function, and through a run."""

import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.errors import InputError
from cola_jax.path import STOP, identity, pad_lists, random_paths, unpad_path
from cola_jax.question import Question, open_question
from cola_jax.runs.run import Run
from cola_jax.scoring import Exact, Generation, Options, Verdicts
from cola_jax.scoring.format import DIRECT, QUESTION
from tests import tiny

PATHS = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, 9, seed=0)]


def lengths(paths):
    """Judge by length: option 1 is right where a path has fewer than five layers."""
    assert isinstance(paths, np.ndarray)
    length = (paths != STOP).sum(axis=-1)
    scores = np.stack([-5.0 + 0 * length, -1.0 * length], axis=-1)
    return Verdicts.of_scores(scores, 1, paths[..., 0] != STOP)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def words(tiny_checkpoint):
    return cola_jax.load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def questions():
    """Questions of unlike lengths, of three to five options."""
    long = Question("long", "which of the words " * 10, ("sun", "moon"), 0)
    return [*tiny.questions(3), long, *tiny.questions(5)[3:]]


def test_evaluate_keeps_order_of_questions(model, words, questions):
    metrics = cola_jax.Metrics()
    evaluation = cola_jax.evaluate(model, questions, PATHS, scorer=Options(words), metrics=metrics)
    verdicts = evaluation.verdicts
    assert evaluation.questions == questions
    assert evaluation.num_layers == tiny.LAYERS
    assert metrics.evaluations == metrics.total == 6 * len(PATHS)
    assert verdicts.scores.shape == (6, 10, 5)
    for b in (1, 3, 5):
        alone = cola_jax.evaluate(model, [questions[b]], PATHS, scorer="options").verdicts
        np.testing.assert_allclose(alone.margin[0], verdicts.margin[b], rtol=1e-4, atol=1e-4)
        count = len(questions[b].options)
        assert alone.scores.shape == (1, 10, count)
        np.testing.assert_allclose(alone.scores[0], verdicts.scores[b, :, :count], rtol=1e-4)
        assert np.isnan(verdicts.scores[b, :, count:]).all()


def test_evaluate_through_a_run_is_that_without_one(model, questions, tmp_path):
    """A path more is another run; with the same ones, what is there is not run again."""
    options = {"scorer": "options", "output": str(tmp_path / "run")}
    few = cola_jax.evaluate(model, questions[:4], PATHS, **options).verdicts
    metrics = cola_jax.Metrics()
    verdicts = cola_jax.evaluate(model, questions, PATHS, metrics=metrics, **options).verdicts
    assert metrics.evaluations == 2 * len(PATHS)
    assert Run(options["output"]).questions().num_rows == len(questions)
    plain = cola_jax.evaluate(model, questions, PATHS, scorer="options").verdicts
    np.testing.assert_allclose(verdicts.scores, plain.scores, rtol=1e-4)
    np.testing.assert_array_equal(verdicts.verdict, plain.verdict)
    np.testing.assert_array_equal(few.verdict, plain.verdict[:4])
    with pytest.raises(InputError, match="a run has the same paths for all questions"):
        cola_jax.evaluate(model, questions[:2], [PATHS[:2], PATHS[2:4]], **options)


def test_evaluate_takes_paths_in_every_form(questions):
    each = [PATHS] * len(questions)
    for paths in (PATHS, each, pad_lists(each, 12)):
        evaluation = cola_jax.evaluate(lengths, questions, paths, num_layers=tiny.LAYERS)
        assert evaluation.questions == questions
        for b in range(len(questions)):
            assert [unpad_path(path) for path in evaluation.paths[b]] == PATHS
            assert evaluation.verdicts.verdict[b].tolist() == [len(p) < 5 for p in PATHS]


def test_evaluate_asks_the_whole_model_without_paths(questions):
    evaluation = cola_jax.evaluate(lengths, questions, num_layers=tiny.LAYERS)
    assert {unpad_path(path) for path in evaluation.paths[:, 0]} == {identity(tiny.LAYERS)}
    with pytest.raises(ValueError, match=r"load_questions\('file\.jsonl'\)"):
        cola_jax.evaluate(lengths, "file.jsonl")  # type: ignore[arg-type]


def test_evaluate_refuses_invalid_arguments(model, questions):
    for asked, scorer, message in (
        ([], "options", "there are no questions"),
        (questions, "exact", "q0 is multiple choice: use a scorer of options"),
    ):
        with pytest.raises(ValueError, match=message):
            cola_jax.evaluate(model, asked, PATHS, scorer=scorer)
    for own, message in ((model, "give scorer= as well"), (lengths, "give num_layers")):
        with pytest.raises(ValueError, match=message):
            cola_jax.evaluate(own, questions, PATHS)


def test_evaluate_asks_open_questions_by_the_name_of_a_scorer(model, words):
    """With the model's tokenizer, stop tokens and context."""
    asked = [open_question("a", "which is hot?", "sun"), open_question("b", "2 + 3", "5")]
    stops = checkpoint.stop_tokens(model.checkpoint)
    for format, chat in ((QUESTION, False), (DIRECT, True)):
        options = {"chat": chat, "context": 256, "stop_tokens": stops}
        scorers = [Exact(words, format, **options), Generation(words, format, **options)]
        name = "direct" if format is DIRECT else "question"
        for scorer in scorers:
            limit = {"max_new_tokens": 5} if scorer.decodes else {}
            if scorer.decodes:
                scorer.max_new_tokens = 5
            by_name = cola_jax.evaluate(
                model, asked, PATHS, scorer=scorer.name, format=name, chat=chat, **limit
            )
            made = cola_jax.evaluate(model, asked, PATHS, scorer=scorer)
            np.testing.assert_array_equal(by_name.verdicts.scores, made.verdicts.scores)
            texts = [
                [each and each.text for each in result.verdicts.completion.flat]
                for result in (by_name, made)
            ]
            assert texts[0] == texts[1]
