"""ARC's fields: id, question, choices {text, label}, answerKey."""

from collections.abc import Mapping
from typing import Any

from cola_jax.question import LETTERS, Question
from cola_jax.tasks.source import id_of, text_of


def read_arc(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row of ARC's schema; every row has its own id.

    Labels are mapped by position, since some rows count 1-4 where others say A-D. Raises
    ValueError for a row that breaks the schema.
    """
    for field in ("id", "question", "choices", "answerKey"):
        if field not in row:
            raise ValueError(f"the field {field!r} is missing.")
    id = id_of(row, "id", "")
    if not id:
        raise ValueError("the field 'id' must be a text or a number, it is None.")
    choices = row["choices"]
    if not isinstance(choices, Mapping) or not {"text", "label"} <= set(choices):
        raise ValueError("the field 'choices' must hold the lists 'text' and 'label'.")
    texts = check_texts("choices.text", choices["text"])
    labels = check_texts("choices.label", choices["label"])
    question, key = text_of(row, "question"), text_of(row, "answerKey")
    if len(texts) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(f"there are {len(texts)} options, but their labels are {labels}.")
    check_count(texts)
    if key not in labels:
        raise ValueError(f"the answer {key!r} is not among the labels {labels}.")
    return Question(id, question, tuple(texts), labels.index(key))


def check_texts(name: str, values: Any) -> list[str]:
    """Returns a list of texts as it is; ValueError for anything else."""
    if not isinstance(values, list) or not all(isinstance(x, str) and x.strip() for x in values):
        raise ValueError(f"the field {name!r} must be a list of texts, it is {values!r}.")
    return values


def check_count(options: list[str]) -> None:
    """Raises ValueError for fewer options than make a choice, or more than there are letters."""
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(
            f"there are {len(options)} options, but a question has 2 to {len(LETTERS)}."
        )
