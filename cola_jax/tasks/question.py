"""`Question`: one multiple-choice question with its gold answer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its options in order, and the position of the right one."""

    id: str
    text: str
    options: tuple[str, ...]
    answer: int

    @property
    def letters(self) -> str:
        """The letters that name the options, by position: whatever labels the source uses."""
        return LETTERS[: len(self.options)]


def read_question(row: Mapping[str, Any]) -> Question:
    """Reads a row of ARC's schema: id, question, choices {text, label}, answerKey.

    Labels are mapped by position, since some rows count 1-4 where others say A-D. Raises
    ValueError for a row that breaks the schema.
    """
    for field in ("id", "question", "choices", "answerKey"):
        if field not in row:
            raise ValueError(f"the field {field!r} is missing.")
    if not isinstance(row["id"], str | int) or not str(row["id"]).strip():
        raise ValueError(f"the field 'id' must be a text or a number, it is {row['id']!r}.")
    choices = row["choices"]
    if not isinstance(choices, Mapping) or not {"text", "label"} <= set(choices):
        raise ValueError("the field 'choices' must hold the lists 'text' and 'label'.")
    texts, labels = choices["text"], choices["label"]
    for name, values in (("text", texts), ("label", labels)):
        if not isinstance(values, list) or not all(
            isinstance(x, str) and x.strip() for x in values
        ):
            raise ValueError(
                f"the field 'choices.{name}' must be a list of texts, it is {values!r}."
            )
    for name in ("question", "answerKey"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"the field {name!r} must be a text, it is {row[name]!r}.")
    if len(texts) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(f"there are {len(texts)} options, but their labels are {labels}.")
    if not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(f"there are {len(texts)} options, but a question has 2 to {len(LETTERS)}.")
    if row["answerKey"] not in labels:
        raise ValueError(f"the answer {row['answerKey']!r} is not among the labels {labels}.")
    answer = labels.index(row["answerKey"])
    return Question(str(row["id"]), row["question"], tuple(texts), answer)
