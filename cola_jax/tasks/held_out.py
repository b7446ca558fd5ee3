"""Held-out questions: those on which what training questions taught is measured."""

import hashlib
from collections.abc import Sequence

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.tasks.shots import content

NAMED = 5  # questions named in a message


def split(
    questions: Sequence[Question], held_out: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Splits questions into those for training and `held_out` others, each part in order.

    A hash of a question's text and the seed decides, so that the part of a question depends neither
    on its place nor, but for the last of them, on the other questions. Raises ValueError where
    nothing would be left for training, and for a text that is in both parts.
    """
    if not 0 <= held_out < len(questions):
        raise InputError(
            f"{held_out} questions cannot be held out of {len(questions)}: leave some for training."
        )
    ranked = sorted(questions, key=lambda question: rank(question, seed))
    chosen = {question.id for question in ranked[:held_out]}
    train = [question for question in questions if question.id not in chosen]
    held = [question for question in questions if question.id in chosen]
    check_apart(train, held)
    return train, held


def rank(question: Question, seed: int) -> bytes:
    """Returns what decides whether a question is held out; equal for equal texts."""
    return hashlib.sha256(f"held out {seed} {question.text}".encode()).digest()


def check_apart(train: Sequence[Question], held: Sequence[Question]) -> None:
    """Raises ValueError that names held-out questions which are training questions as well."""
    ids, texts = {one.id for one in train}, {content(one) for one in train}
    both = [one.id for one in held if one.id in ids or content(one) in texts]
    if both:
        named = ", ".join(both[:NAMED]) + (", ..." if len(both) > NAMED else "")
        raise InputError(
            f"{len(both)} of {len(held)} held-out questions are training questions as well "
            f"({named}): give other files, or a split of one (--held-out)."
        )
