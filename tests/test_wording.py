"""`Wording`: what it draws depends on its seed and its name alone."""

from cola_jax.question import Question
from cola_jax.wording import Wording


def test_the_order_of_options_is_drawn():
    question = Question("q", "Which?", ("a", "b", "c", "d"), 2)
    drawn = [Wording(draw=f"measure {i}").order(question) for i in range(20)]
    assert len(set(map(tuple, drawn))) > 5
    assert all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    assert drawn[3] == Wording("harness", 2, draw="measure 3").order(question)
    assert drawn[3] != Wording(seed=1, draw="measure 3").order(question)
