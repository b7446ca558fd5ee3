"""Functions from paths to verdicts: of a model, and of the user's own."""

import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.execute.plan import Workload
from cola_jax.path import STOP, identity, pad_lists, random_paths, unpad_path
from cola_jax.question import Question, open_question
from cola_jax.scoring import Exact, Generation, Options, Verdicts
from cola_jax.scoring.evaluator import evaluator, question_batches
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
def questions():
    """Questions of unlike lengths, of three to five options."""
    long = Question("long", "which of the words " * 10, ("sun", "moon"), 0)
    return [*tiny.questions(3), long, *tiny.questions(5)[3:]]


def test_evaluator_keeps_order_of_questions(model, words, questions):
    evaluate = evaluator(model, questions, Options(words))
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
            evaluator(model, asked, scorer)
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


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((2, 6)), r"float64 of shape \(2, 6\) .* give floats \(6, 10\)"),
        (np.zeros((6, 10), int), "int64 of shape"),  # 0 would be right
        (np.zeros((6, 10, 3)), r"or the scores of every option \(6, 10, 5\)"),
        (np.zeros((6, 10, 5), bool), "bool of shape"),
        ([[1.0], [2.0, 3.0]], "of shape"),
        (None, "object of shape"),
        (Verdicts.of_margins(np.zeros(6)), r"Verdicts of shape \(6,\)"),
    ],
    ids=str,
)
def test_evaluate_refuses_results_of_a_function(questions, returned, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.evaluate(lambda paths: returned, questions, PATHS, num_layers=tiny.LAYERS)


def test_score_of_an_option_alone_is_right_from_zero():
    alone = open_question("alone", "which is hot?", "sun")
    scores = np.array([-1.0, 0.0, 2.0])
    for questions in ([alone], [alone, *tiny.questions(1)]):
        most = max(1, *(len(each.options) for each in questions))
        made = np.zeros((len(questions), 3, most))
        made[0, :, 0] = scores
        made[0, :, 1:] = 9  # of options that the question lacks
        verdicts = cola_jax.evaluate(
            lambda paths, made=made: made, questions, PATHS[:3], num_layers=tiny.LAYERS
        ).verdicts
        of_margins = Verdicts.of_margins(scores)
        assert verdicts.verdict[0].tolist() == of_margins.verdict.tolist() == [False, True, True]
        assert verdicts.margin[0].tolist() == of_margins.margin.tolist() == scores.tolist()
        assert verdicts.answer[0].tolist() == of_margins.answer.tolist()


def test_evaluate_takes_scores_of_bfloat16(questions):
    of_each = cola_jax.evaluate(
        lambda paths: jnp.full(paths.shape[:2], -0.5, jnp.bfloat16),
        questions,
        PATHS,
        num_layers=tiny.LAYERS,
    )
    assert not of_each.verdicts.verdict.any()
    assert (of_each.verdicts.margin == -0.5).all()


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
