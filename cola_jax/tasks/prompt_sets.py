"""Prompt sets: random draws of a task's format, of the order of its options, and of its shots.

A prompt is a draw, as a question is: the same path gained 2.9 points after one pair of shots and
lost 3.5 after another. A set serves all questions of a task.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

from cola_jax.errors import InputError
from cola_jax.question import Question, random_of

Item = TypeVar("Item")
CHOOSE, MEASURE = "choose", "measure"  # purposes: sets of the one are none of the other
ATTEMPTS = 20  # draws, which may repeat a set, for each set wanted
RESERVED = 8  # sets for measuring that those for choosing leave out, whatever is asked for


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """One draw; its random numbers depend on the seed and the name alone."""

    name: str  # its purpose and number
    seed: int

    def random(self, *key: str) -> "np.random.Generator":
        """Return the generator of one part of the set."""
        return random_of(self.seed, self.name, *key)

    def format(self, formats: Sequence[str]) -> str:
        """Draw one of the formats that a scorer has."""
        return formats[int(self.random("format").integers(len(formats)))]

    def shuffle(self, shots: Sequence[Item]) -> list[Item]:
        """Shuffle the questions of which the first are shown."""
        return [shots[i] for i in self.random("shots").permutation(len(shots))]

    def reorder(self, question: Question) -> Question:
        """Shuffle the options of a question."""
        order = self.random("order", question.id).permutation(len(question.options)).tolist()
        options = tuple(question.options[i] for i in order)
        return dataclasses.replace(question, options=options, answer=order.index(question.answer))


def too_few(task: str, found: int, wanted: int) -> InputError:
    """Return the error for a task with fewer distinct prompts than are wanted."""
    return InputError(
        f"{task} has {found} other prompts to draw, but {wanted} are wanted: show solved examples "
        "(--num-fewshot 1 or more, from a --shots-file that is long enough), or ask for fewer "
        "(--prompts, --choose-prompts)."
    )
