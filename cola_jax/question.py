"""`Question`: a multiple-choice or open question and its gold answer."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from cola_jax.errors import InputError

DELIMITER = "delimiter"  # metadata of a question whose text is a whole prompt
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its answer options in order, and the index of the correct one.

    The options of an open question are the gold answer and a decoy, if it has one: by default an
    integer close to an integer gold. A metric of your own needs none.
    """

    id: str
    text: str
    options: tuple[str, ...] = ()
    answer: int = 0
    open: bool = False  # answered in free text; the options are not shown
    solution: str | None = None  # worked solution, without the line that states the answer
    metadata: tuple[tuple[str, str], ...] = ()  # such as ("math_level", "3")

    @property
    def letters(self) -> str:
        """The letters of the options, by position, whatever the labels of the source."""
        return LETTERS[: len(self.options)]

    @property
    def gold(self) -> str:
        """The text of the correct answer."""
        return self.options[self.answer]

    def with_decoy(self, decoy: str | None) -> "Question":
        """Replace the decoy of an open question.

        Returns:
          The same question with another decoy, or without one.
        """
        options = (self.gold,) if decoy is None else (self.gold, decoy)
        return dataclasses.replace(self, options=options)

    def get(self, name: str) -> str | None:
        """Look up a name in the metadata.

        Returns:
          The value, None for a missing name.
        """
        return dict(self.metadata).get(name)


def open_question(
    id: str,
    text: str,
    gold: str,
    solution: str | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Question:
    """Make an open question; raises InputError if the text or the answer is blank."""
    if not text.strip():
        raise InputError(f"question {id} is empty.")
    gold = gold.strip()
    if not gold:
        raise InputError(f"question {id} has no answer: the gold answer is empty.")
    decoy = decoy_of(id, gold)
    options = (gold,) if decoy is None else (gold, decoy)
    return Question(id, text, options, 0, open=True, solution=solution, metadata=metadata)


def decoy_of(id: str, gold: str) -> str | None:
    """Pick a wrong integer close to an integer gold by a hash of the id; None for other golds.

    It must be a plausible answer, for a control search: that of a nonnegative gold is nonnegative.
    """
    if not INTEGER.fullmatch(gold):
        return None
    digest = hashlib.sha256(f"decoy {id}".encode()).digest()
    offset = (-4, -3, -2, -1, 1, 2, 3, 4)[digest[0] % 8]
    value = int(gold)
    if value >= 0 > value + offset:
        offset = -offset
    return str(value + offset)


def content(question: Question) -> tuple[str, ...]:
    """Return the parts that equal questions share: the text, and the options in any order."""
    return (question.text.strip(), *(() if question.open else sorted(question.options)))


def split(ids: Sequence[str], key: str) -> list[int]:
    """Order ids by a hash of key and id, the same on any machine and in any selection of ids.

    Args:
      ids: of questions, or their texts.
      key: of the order, such as "validation".

    Returns:
      The indices of all ids, such as the first n for held-out questions, or every n-th for a fold.
    """

    def rank(i: int) -> bytes:
        return hashlib.sha256((f"{key} {ids[i]}" if key else ids[i]).encode()).digest()

    return sorted(range(len(ids)), key=rank)
