"""Which wrong answers a question is searched for as well."""

import numpy as np
import pytest

from cola_jax.question import Question, open_question
from cola_jax.search.controls import closest_target, control_targets, without_control
from tests.search.formula import GOLD, OPTIONS


@pytest.mark.parametrize("answer", [-1, 0, 1, 2, 3])
def test_control_is_neither_gold_nor_models_answer(answer):
    asked = [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(40)]
    left = {0, 1, 2, 3} - {GOLD, answer}
    assert all(set(control_targets(question, [answer], "all")) == left for question in asked)
    chosen = [control_targets(question, [answer], "one") for question in asked]
    assert {target for (target,) in chosen} == left  # by a hash of the id
    assert chosen == [control_targets(question, [answer], "one") for question in asked]
    assert all(control_targets(question, [answer], "none") == [] for question in asked)


def test_control_is_none_without_other_option():
    two = Question("q", "?", ("a", "b"), 0)
    for control in ("all", "one"):
        assert control_targets(two, [1], control) == []
        assert control_targets(two, [-1], control) == [1]
    assert closest_target(two, 1, np.array([0.0, 1.0])) is None


def test_closest_target_scores_as_gold_does():
    question = Question("q", "?", OPTIONS, GOLD)
    scores = np.array([-1.0, -5.0, -4.8, -5.1], np.float32)
    assert closest_target(question, 0, scores) == 3
    assert closest_target(question, 3, scores) == 2
    assert closest_target(question, 0, np.full(4, np.nan)) is None


def test_control_is_no_answer_in_any_variant():
    question = Question("q", "?", OPTIONS, GOLD)
    assert control_targets(question, [0, 2], "all") == [3]
    assert control_targets(question, [0, 2, 3], "all") == []


def test_questions_without_a_wrong_answer_are_named():
    some = [open_question(name, "?", gold) for name, gold in (("a", "x"), ("b", "7"), ("c", "y"))]
    assert without_control(some, "one") == ["a", "c"]
    assert without_control(some, "none") == []
