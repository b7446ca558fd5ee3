"""`Verdicts`: how they are made of scores, joined, and taken apart."""

import numpy as np
import pytest

from cola_jax.scoring import Completion, Grade, Verdicts
from cola_jax.scoring.verdicts import NO_ANSWER


def test_of_scores_compares_gold_with_best_rival():
    scores = np.array([[-1.0, -3, -2], [-4, -3, -2], [-2, -1, -9]])
    verdicts = Verdicts.of_scores(scores, 1)
    assert verdicts.answer.tolist() == [0, 2, 1]
    assert verdicts.verdict.tolist() == [False, False, True]
    assert verdicts.margin.tolist() == [-2, -1, 1]
    np.testing.assert_array_equal(verdicts.scores, scores)
    assert verdicts.finite.all()
    ties = Verdicts.of_scores(np.full((2, 3), -2.0), np.array([0, 1]))  # a gold for each
    assert ties.answer.tolist() == [0, 0]
    assert ties.verdict.tolist() == [True, False]
    kinds = [column.dtype for column in verdicts[:6]]
    assert kinds == ["bool", "float32", "int32", "float32", "float32", "bool"]
    assert verdicts.completion.tolist() == [None] * 3


@pytest.mark.parametrize("finite", [None, np.array([True, False, False, False])])
def test_of_scores_not_finite_is_wrong(finite):
    scores = np.array([[1.0, 0], [np.nan, 0], [np.inf, 0], [1, -np.inf]])
    verdicts = Verdicts.of_scores(scores, 0, finite)
    assert verdicts.verdict.tolist() == verdicts.finite.tolist() == [True, False, False, False]
    assert verdicts.answer.tolist() == [0, *[NO_ANSWER] * 3]
    assert verdicts.margin.tolist() == [1, *[-np.inf] * 3]
    assert np.isnan(verdicts.scores[1:]).all()


def test_answer_logprobs_are_kept_for_other_targets_and_put_by_option():
    scores = np.array([[1.0, -2], [3, -4]])
    verdicts = Verdicts.of_scores(scores, 0, outside=np.nan, answer_logprobs=scores - 9)
    np.testing.assert_array_equal(verdicts.of_target(1).answer_logprobs, scores - 9)
    wide = Verdicts.empty((2,), 3)
    wide.put((slice(2),), verdicts)
    np.testing.assert_array_equal(wide.answer_logprobs[:, :2], scores - 9)
    assert np.isnan(wide.answer_logprobs[:, 2]).all()
    assert np.isnan(Verdicts.of_scores(scores, 0).answer_logprobs).all()


def test_of_target_compares_with_what_is_outside_the_options():
    scores, outside = np.array([[-1.0, -3], [-2, -4], [-2, -1]]), np.array([-2.0, -1, -np.inf])
    answer = np.array([0, NO_ANSWER, 1])
    verdicts = Verdicts.of_scores(scores, 0, answer=answer, outside=outside)
    assert verdicts.margin.tolist() == [1, -1, -1]
    other = verdicts.take(np.array([2, 1, 0])).of_target(np.array([1, 1, 0]))
    assert other.margin.tolist() == [1, -3, 1]
    assert other.verdict.tolist() == [True, False, True]
    assert other.answer.tolist() == [1, NO_ANSWER, 0]
    alone = Verdicts.of_scores(scores, 0, answer=answer, outside=np.nan)  # each against 0
    assert alone.margin.tolist() == [-1, -2, -2]
    assert alone.of_target(1).margin.tolist() == [-3, -4, -1]


def test_logprobs_are_of_log_likelihoods_that_are_compared():
    scores = np.array([[-1.0, -1, np.nan], [0, np.log(3), -np.inf]])
    finite = np.array([True, True])
    verdicts = Verdicts.of_scores(scores, 0, finite, log_likelihoods=True)
    np.testing.assert_allclose(np.exp(verdicts.logprobs), [[0.5, 0.5, 0], [0.25, 0.75, 0]])
    assert np.isnan(Verdicts.of_scores(scores, 0, finite).logprobs).all()
    alone = Verdicts.of_scores(scores, 0, finite, outside=np.nan, log_likelihoods=True)
    assert np.isnan(alone.of_target(1).logprobs).all()  # such as the leads of `exact`
    np.testing.assert_array_equal(verdicts.of_target(1).logprobs, verdicts.logprobs)


def test_of_margins_is_right_from_zero_up():
    verdicts = Verdicts.of_margins(np.array([[0.5, 0, -0.5], [np.nan, -np.inf, 1]]))
    assert verdicts.verdict.tolist() == [[True, True, False], [False, False, True]]
    assert verdicts.margin.tolist() == [[0.5, 0, -0.5], [-np.inf, -np.inf, 1]]
    assert verdicts.finite.tolist() == [[True] * 3, [False, False, True]]


@pytest.mark.parametrize("options", [2, 3, 4])
def test_put_and_take_are_inverse(options):
    """Questions of a batch have different numbers of options."""
    out = Verdicts.empty((2, 3), 3)
    scores = np.arange(2.0 * options).reshape(2, options)
    out.put((1, np.array([0, 2])), Verdicts.of_scores(scores, 0))
    back = out.take((1, np.array([2, 0])))
    kept = min(options, 3)
    np.testing.assert_array_equal(back.scores[:, :kept], scores[::-1, :kept])
    assert np.isnan(back.scores[:, kept:]).all()
    assert back.answer.tolist() == [options - 1] * 2
    assert back.margin.tolist() == [-options + 1] * 2
    for empty in (out.take((0,)), out.take((1, slice(1, 2)))):
        assert not (empty.verdict | empty.finite).any()
        assert (empty.answer == NO_ANSWER).all()
        assert (empty.margin == -np.inf).all()
        assert np.isnan(empty.scores).all()


def test_graded_is_false_where_grader_failed():
    verdicts = Verdicts.empty((5,), 2)
    grades = [Grade.RIGHT, Grade.WRONG, Grade.UNGRADED, None]
    verdicts.completion[1:] = [
        Completion("x", "x", "stop", False, grade, (1,), -1.0) for grade in grades
    ]
    assert verdicts.graded.tolist() == [True, True, True, False, False]
    assert verdicts.take(np.array([3, 0])).graded.tolist() == [False, True]


def test_repr_counts_right_answers():
    verdicts = Verdicts.of_margins(np.array([[0.5, -1.0, np.nan]] * 4))
    assert repr(verdicts) == "Verdicts([4, 3]: 4 of 12 right, 4 not finite)"
