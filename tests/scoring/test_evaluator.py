"""`FunctionEvaluator`: what functions of the user's own return, as verdicts."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.path import STOP, pad_lists
from cola_jax.question import open_question
from cola_jax.scoring import Verdicts
from cola_jax.scoring.evaluator import FunctionEvaluator
from tests import tiny

QUESTIONS = tiny.questions(6)  # of three to five options
PATHS = pad_lists([[(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]] * 6, 12)


def by_length(paths):
    """Judge by length: option 1 is right where a path has fewer than five layers."""
    assert isinstance(paths, np.ndarray)
    length = (paths != STOP).sum(axis=-1)
    scores = np.stack([-5.0 + 0 * length, -1.0 * length], axis=-1)
    return Verdicts.of_scores(scores, 1, paths[..., 0] != STOP)


def evaluate(function, questions=QUESTIONS, paths=PATHS):
    return FunctionEvaluator(function, questions, tiny.LAYERS)(paths)


def test_verdicts_of_a_function_are_taken_as_they_are():
    verdicts = evaluate(by_length)
    assert verdicts.verdict.tolist() == [[False, True, False]] * 6
    assert verdicts.scores.shape == (6, 3, 2)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((2, 6)), r"float64 of shape \(2, 6\) .* give floats \(6, 3\)"),
        (np.zeros((6, 3), int), "int64 of shape"),  # 0 would be right
        (np.zeros((6, 3, 3)), r"or the scores of every option \(6, 3, 5\)"),
        (np.zeros((6, 3, 5), bool), "bool of shape"),
        ([[1.0], [2.0, 3.0]], "of shape"),
        (None, "object of shape"),
        (Verdicts.of_margins(np.zeros(6)), r"Verdicts of shape \(6,\)"),
    ],
    ids=str,
)
def test_results_of_a_function_are_refused(returned, message):
    with pytest.raises(ValueError, match=message):
        evaluate(lambda paths: returned)


def test_score_of_an_option_alone_is_right_from_zero():
    alone = open_question("alone", "which is hot?", "sun")
    scores = np.array([-1.0, 0.0, 2.0])
    for questions in ([alone], [alone, *tiny.questions(1)]):
        most = max(1, *(len(each.options) for each in questions))
        made = np.zeros((len(questions), 3, most))
        made[0, :, 0] = scores
        made[0, :, 1:] = 9  # of options that the question lacks
        verdicts = evaluate(lambda paths, made=made: made, questions, PATHS[: len(questions)])
        of_margins = Verdicts.of_margins(scores)
        assert verdicts.verdict[0].tolist() == of_margins.verdict.tolist() == [False, True, True]
        assert verdicts.margin[0].tolist() == of_margins.margin.tolist() == scores.tolist()
        assert verdicts.answer[0].tolist() == of_margins.answer.tolist()


def test_scores_may_be_of_bfloat16():
    verdicts = evaluate(lambda paths: jnp.full(paths.shape[:2], -0.5, jnp.bfloat16))
    assert not verdicts.verdict.any()
    assert (verdicts.margin == -0.5).all()
