"""`Question`: one question with its gold answer, multiple choice or open."""

import dataclasses
import hashlib
import re

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its options in order, and the position of the right one.

    The options of an open question are its gold answer and, where there is one, a decoy.
    """

    id: str
    text: str
    options: tuple[str, ...]
    answer: int
    open: bool = False  # asked for an answer in its own words, not for one of the options
    solution: str | None = None  # a worked solution without the line that states the answer
    facts: tuple[tuple[str, str], ...] = ()  # such as ("math_level", "3")

    @property
    def letters(self) -> str:
        """The letters that name the options, by position: whatever labels the source uses."""
        return LETTERS[: len(self.options)]

    @property
    def gold(self) -> str:
        """The text of the right answer."""
        return self.options[self.answer]

    def fact(self, name: str) -> str | None:
        """Returns what is known under that name, or None."""
        return dict(self.facts).get(name)


def open_question(
    id: str,
    text: str,
    gold: str,
    solution: str | None = None,
    facts: tuple[tuple[str, str], ...] = (),
) -> Question:
    """Makes an open question; ValueError where it has no text or no answer."""
    if not text.strip():
        raise ValueError(f"question {id} is empty.")
    gold = gold.strip()
    if not gold:
        raise ValueError(f"question {id} has no answer: the gold answer is empty.")
    decoy = decoy_of(id, gold)
    options = (gold,) if decoy is None else (gold, decoy)
    return Question(id, text, options, 0, open=True, solution=solution, facts=facts)


def decoy_of(id: str, gold: str) -> str | None:
    """Picks a wrong integer near an integer gold by a hash of the id; None for any other gold.

    The control of a search looks for it, so it must look like an answer: a number that is not
    negative keeps a decoy that is not negative.
    """
    if not INTEGER.fullmatch(gold):
        return None
    digest = hashlib.sha256(f"decoy {id}".encode()).digest()
    offset = (-4, -3, -2, -1, 1, 2, 3, 4)[digest[0] % 8]
    value = int(gold)
    if value >= 0 > value + offset:
        offset = -offset
    return str(value + offset)
