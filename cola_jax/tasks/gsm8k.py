"""GSM8K's fields: question, and answer: a worked solution, ####, and the number."""

import re
from collections.abc import Mapping
from typing import Any

from cola_jax.question import Question, open_question
from cola_jax.tasks.source import hash_of, id_of, text_of

CALCULATOR = re.compile(r"<<[^<>]*>>")  # such as <<4*5=20>>, made for a tool that is not here


def read_gsm8k(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row; ValueError where it has no number behind ####."""
    text, answer = text_of(row, "question"), text_of(row, "answer")
    solution, mark, gold = answer.rpartition("####")
    if not mark:
        raise ValueError("the field 'answer' must give its number behind ####, it has no ####.")
    solution = CALCULATOR.sub("", solution).strip()
    id = id_of(row, "id", default_id or hash_of(text))
    return open_question(id, text, re.sub(r"[,$]", "", gold), solution)
