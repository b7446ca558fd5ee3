"""A JSONL of one's own: prompt or question, answer, and an id if wanted."""

import math
from collections.abc import Mapping
from typing import Any

from cola_jax.question import Question, open_question
from cola_jax.tasks.source import hash_of, id_of, text_of


def read_plain(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row; its answer is a text, or a number that is taken as it is written."""
    text = text_of(row, "prompt", "question")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        if not math.isfinite(answer):
            raise ValueError(f"the field 'answer' must be a finite number, it is {answer}.")
        answer = str(answer)
    gold = text_of({"answer": answer}, "answer")
    solution = row.get("solution")
    solution = solution if isinstance(solution, str) and solution.strip() else None
    id = id_of(row, "id", default_id or hash_of(text))
    return open_question(id, text, gold, solution)
