"""`Wording`: what it draws depends on its seed and its name alone."""

from cola_jax.question import Question
from cola_jax.wording import Wording


def test_reorder_shuffles_options_and_keeps_the_answer():
    question = Question("q", "Which?", ("a", "b", "c", "d"), 2)
    drawn = [Wording(draw=f"measure {i}").reorder(question) for i in range(20)]
    assert len({each.options for each in drawn}) > 5
    assert {each.gold for each in drawn} == {"c"}
    assert drawn[3] == Wording("harness", 2, draw="measure 3").reorder(question)
    assert drawn[3] != Wording(seed=1, draw="measure 3").reorder(question)
