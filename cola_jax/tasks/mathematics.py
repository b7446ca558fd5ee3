"""MATH's fields: problem, solution with a boxed answer, level, type; MATH-500's answer, subject."""

import re
from collections.abc import Mapping
from typing import Any

from cola_jax.question import Question, open_question
from cola_jax.scoring.answer import last_box
from cola_jax.tasks.source import hash_of, id_of, text_of

SUBJECTS = (  # the configs of EleutherAI/hendrycks_math
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def read_math(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row; gold is its `answer`, else what the last box of its solution holds."""
    text = text_of(row, "problem")
    solution = text_of(row, "solution") if row.get("solution") is not None else None
    if row.get("answer") is not None:
        gold = text_of(row, "answer")
    elif solution is None:
        raise ValueError("the field 'answer' is missing, and so is a 'solution' with a boxed one.")
    else:
        gold = last_box(solution)
    if gold is None:
        raise ValueError("there is no answer: the field 'solution' has no complete \\boxed{...}.")
    id = id_of(row, "unique_id", id_of(row, "id", default_id or hash_of(text)))
    facts = []
    if (level := math_level(row.get("level"))) is not None:
        facts.append(("math_level", level))
    subject = row.get("subject") or row.get("type")
    if isinstance(subject, str):
        facts.append(("subject", subject))
    return open_question(id, text, gold, solution, tuple(facts))


def math_level(level: Any) -> str | None:
    """Reads "Level 3", "3" or 3; None for "Level ?" and for no level at all."""
    if level is None:
        return None
    found = re.fullmatch(r"(?:level\s*)?([1-5?])", str(level).strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"the field 'level' must be one of 1 to 5, or Level ?, it is {level!r}.")
    return None if found[1] == "?" else found[1]
