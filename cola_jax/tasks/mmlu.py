"""MMLU's fields: question, subject, choices (a list of texts), answer (the index of one)."""

from collections.abc import Mapping
from typing import Any

from cola_jax.question import LETTERS, Question
from cola_jax.tasks.arc import check_count
from cola_jax.tasks.source import hash_of, id_of, text_of


def read_mmlu(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row; the answer may be an index or a letter. ValueError where it breaks the schema.

    An option may be empty, which a letter can still name; the scorers that read an option's text
    refuse it.
    """
    question = text_of(row, "question")
    for field in ("choices", "answer"):
        if row.get(field) is None:
            raise ValueError(f"the field {field!r} is missing.")
    options = row["choices"]
    if not isinstance(options, list) or not all(isinstance(x, str) for x in options):
        raise ValueError(f"the field 'choices' must be a list of texts, it is {options!r}.")
    check_count(options)
    subject = row.get("subject")
    facts = (("subject", subject),) if isinstance(subject, str) and subject.strip() else ()
    default = default_id or hash_of(question, *options)
    answer = answer_index(row["answer"], len(options))
    return Question(id_of(row, "id", default), question, tuple(options), answer, facts=facts)


def answer_index(answer: Any, count: int) -> int:
    """Reads an index from 0, or a letter."""
    letters = LETTERS[:count]
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < count:
        raise ValueError(
            f"the field 'answer' must be an index 0..{count - 1} or a letter A-{letters[-1]}, it "
            f"is {answer!r}."
        )
    return answer
