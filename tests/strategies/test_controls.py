"""Which wrong answers a question is searched for as well."""

import pytest

from cola_jax.question import Question, open_question
from cola_jax.strategies.controls import control_targets, without_control
from tests.strategies.formula import GOLD, OPTIONS


@pytest.mark.parametrize("answer", [-1, 0, 2, 3])
def test_controls_are_wrong_options_and_last_the_models_own_answer(answer):
    asked = [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(40)]
    left, own = {0, 1, 2, 3} - {GOLD, answer}, [answer] if answer >= 0 else []
    assert all(
        control_targets(question, [answer], "all") == [*sorted(left), *own] for question in asked
    )
    chosen = [control_targets(question, [answer], "one") for question in asked]
    assert {target for target, *_ in chosen} == left  # by a hash of the id
    assert all(rest == own for _, *rest in chosen)
    assert chosen == [control_targets(question, [answer], "one") for question in asked]
    assert all(control_targets(question, [answer], "none") == [] for question in asked)


def test_right_answers_have_no_controls():
    question = Question("q", "?", OPTIONS, GOLD)
    for control in ("all", "one"):
        assert control_targets(question, [GOLD], control) == []
        assert control_targets(question, [0, GOLD], control) == []


def test_controls_where_no_other_option_is_left():
    two = Question("q", "?", ("a", "b"), 0)
    assert control_targets(two, [1], "all") == [1]  # kept
    assert control_targets(two, [-1], "all") == [1]  # reached
    assert control_targets(open_question("q", "?", "7"), [1], "all") == []


def test_controls_are_no_answer_in_any_variant():
    """Nor is an answer kept that the model gives in some only."""
    question = Question("q", "?", OPTIONS, GOLD)
    assert control_targets(question, [0, 2], "all") == [3]
    assert control_targets(question, [0, 2, 3], "all") == []
    assert control_targets(question, [2, 2], "all") == [0, 3, 2]


def test_questions_without_a_wrong_answer_are_named():
    some = [open_question(name, "?", gold) for name, gold in (("a", "x"), ("b", "7"), ("c", "y"))]
    assert without_control(some, "one") == ["a", "c"]
    assert without_control(some, "none") == []
