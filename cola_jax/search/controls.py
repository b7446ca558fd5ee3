"""Control searches: which wrong answers a search is also run for, to tell skill from luck.

With enough perturbed networks some path gives any answer. What a search for gold finds beyond what
the same search finds for a wrong answer is what the model's layers know.
"""

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from cola_jax.question import Question
from cola_jax.search.presets import Control


def without_control(questions: Sequence[Question], control: Control) -> list[str]:
    """Returns the ids of questions that have no wrong answer for a control search to look for."""
    if control == "none":
        return []
    return [question.id for question in questions if len(question.options) < 2]


def control_targets(question: Question, given: Collection[int], control: Control) -> list[int]:
    """Returns the wrong options that a question is searched for as well, in order.

    A control must start where a wrong question starts: with an option that the pretrained model
    does not give. So neither gold nor any of `given`, the model's own answers, is among them.

    Args:
      control: every such option, one of them by a hash of the question's id, or none.
    """
    others = [j for j in range(len(question.options)) if j != question.answer and j not in given]
    if control == "none" or not others:
        return []
    if control == "all":
        return others
    digest = hashlib.sha256(f"control {question.id}".encode()).digest()
    return [others[int.from_bytes(digest[:8], "little") % len(others)]]


def closest_target(question: Question, answer: int, scores: np.ndarray) -> int | None:
    """Returns the control target whose score [J] is closest to gold's in the pretrained model.

    Gold is often the model's second choice, which alone makes it easier to reach. None where no
    wrong option is left, or the model's scores are not finite.
    """
    others = control_targets(question, [answer], "all")
    gaps = np.abs(np.asarray(scores, np.float64)[others] - scores[question.answer])
    return others[int(gaps.argmin())] if len(gaps) and np.isfinite(gaps).all() else None
