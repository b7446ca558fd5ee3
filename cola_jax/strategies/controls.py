"""Control searches: which other answers a search is also run for, to tell skill from luck.

With enough perturbed networks some path gives any answer, and any answer is kept on fewer layers.
So hits of gold are compared with those of wrong answers that the model does not give, and layers
saved on right answers with those saved on the model's own wrong answers.
"""

from collections.abc import Collection, Sequence

from cola_jax.identity import stable_hash
from cola_jax.question import Question
from cola_jax.strategies.rules import Control


def without_control(questions: Sequence[Question], control: Control) -> list[str]:
    """Returns the ids of questions that have no wrong answer for a control search to look for."""
    if control == "none":
        return []
    return [question.id for question in questions if len(question.options) < 2]


def control_targets(question: Question, given: Collection[int], control: Control) -> list[int]:
    """Returns the options that a question is searched for beside gold, in order.

    None where the pretrained model gives gold in any way the question is asked: a search for gold
    then only keeps its answer. Elsewhere the wrong options that it gives in none, since such a
    search must start where that for gold starts; and after them, where options are offered, the
    wrong one that it gives in all, which that search only keeps.

    Args:
      given: the model's own answers.
      control: every wrong option that is not given, one of them by a hash of the question's id, or
        nothing at all.
    """
    if control == "none" or question.answer in given:
        return []
    options = range(len(question.options))
    others = [j for j in options if j != question.answer and j not in given]
    if control == "one" and others:
        others = [others[stable_hash(f"control {question.id}") % len(others)]]
    own = set(given)
    kept = len(own) == 1 and own <= set(options) and not question.open
    return [*others, *own] if kept else others
